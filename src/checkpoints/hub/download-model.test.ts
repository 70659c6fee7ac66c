/** Against a server that speaks the Hub's protocol: see tests/hub/hub-server.ts. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test, vi } from "vitest";
import { ownHome } from "../../../tests/hub/environment.ts";
import { gitBlob, HubServer, sha256 } from "../../../tests/hub/hub-server.ts";
import { EspalierError } from "../../graph/errors.ts";
import { openCheckpoint } from "../hf-directory.ts";
import { type DownloadOptions, type DownloadProgress, downloadModel } from "./download-model.ts";

const home = ownHome();
const fixtures = fileURLToPath(new URL("../../../tests/fixtures/", import.meta.url));
const fixture = (name: string, file: string) => readFileSync(join(fixtures, name, file));

const weights = fixture("llama-tiny", "model.safetensors");
const model = {
  "config.json": fixture("llama-tiny", "config.json"),
  "generation_config.json": fixture("llama-tiny", "generation_config.json"),
  "tokenizer.json": "{}",
  LICENSE: "MIT",
  "model.safetensors": weights,
};
const wanted = ["LICENSE", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];

async function start(): Promise<HubServer> {
  const hub = await HubServer.start();
  vi.stubEnv("HF_ENDPOINT", hub.endpoint);
  return hub;
}

async function refusal(name: string, options?: DownloadOptions): Promise<{ code: string; message: string }> {
  const error: unknown = await downloadModel(name, options).then(
    (path) => new Error(`expected a refusal, got ${path}`),
    (e) => e,
  );
  if (!(error instanceof EspalierError)) throw error;
  return { code: error.code, message: error.message };
}

const repoRoot = () => join(home.directory, "hub", "models--org--tiny");
const blobs = () => readdirSync(join(repoRoot(), "blobs")).sort();

test("a model is fetched whole into the cache's layout, and opens", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", {
    ...model,
    "README.md": "a model",
    "pytorch_model.bin": "a pickle",
    "onnx/model.onnx": "another form",
    "training_args.bin": "a pickle",
  });
  const directory = await downloadModel("org/tiny");
  expect(directory).toBe(join(repoRoot(), "snapshots", commit));
  expect(readdirSync(directory).sort()).toEqual(wanted);
  expect(readFileSync(join(repoRoot(), "refs", "main"), "utf8")).toBe(commit);
  expect(readlinkSync(join(directory, "model.safetensors"))).toBe(join("..", "..", "blobs", sha256(weights)));
  expect(readlinkSync(join(directory, "config.json"))).toBe(join("..", "..", "blobs", gitBlob(model["config.json"])));
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(blobs()).toHaveLength(wanted.length);
  expect(openCheckpoint(directory).tensors.size).toBeGreaterThan(10);
});

test("a second call fetches no file, a new commit only what changed", async () => {
  const hub = await start();
  const first = hub.host("org/tiny", model);
  await downloadModel("org/tiny");
  hub.served.length = 0;
  expect(await downloadModel("org/tiny")).toBe(join(repoRoot(), "snapshots", first.commit));
  expect(hub.bodies).toEqual([]);
  expect(hub.served.map(({ path }) => path)).toEqual(["/api/models/org/tiny/revision/main", `/api/models/org/tiny/tree/${first.commit}`]);
  const second = hub.host("org/tiny", { ...model, "tokenizer.json": "{ }" }, { commit: "b".repeat(40) });
  expect(await downloadModel("org/tiny")).toBe(join(repoRoot(), "snapshots", second.commit));
  expect(hub.bodies.map(({ path }) => path)).toEqual([`/org/tiny/resolve/${second.commit}/tokenizer.json`]);
  expect(readFileSync(join(repoRoot(), "refs", "main"), "utf8")).toBe(second.commit);
});

test("branches, tags and commits", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", model, { revisions: ["v1.0", "refs/pr/1"] });
  const snapshot = join(repoRoot(), "snapshots", commit);
  expect(await downloadModel("org/tiny@v1.0")).toBe(snapshot);
  expect(await downloadModel("org/tiny@refs/pr/1")).toBe(snapshot);
  expect(await downloadModel("org/tiny", { revision: commit })).toBe(snapshot);
  expect(readdirSync(join(repoRoot(), "refs"), { recursive: true }).sort()).toEqual(["refs", "refs/pr", "refs/pr/1", "v1.0"]);
  expect(await refusal("org/tiny@v2")).toEqual({
    code: "hub-revision",
    message: `org/tiny has no branch, tag or commit "v2". ${hub.endpoint}/org/tiny/tree/main shows which there are.`,
  });
});

test("an old name without an organisation", async () => {
  const hub = await start();
  hub.host("tiny", model);
  expect(dirname(dirname(await downloadModel("tiny")))).toBe(join(home.directory, "hub", "models--tiny"));
});

test("a repository that was renamed, with more files than the Hub lists at a time", async () => {
  const hub = await start();
  hub.host("org/new", model);
  hub.renamed.set("org/tiny", "org/new");
  hub.pageSize = 2;
  expect(readdirSync(await downloadModel("org/tiny")).sort()).toEqual(wanted);
  expect(hub.served.filter(({ path, status }) => path.includes("/tree/") && status === 200)).toHaveLength(3);
});

test("what huggingface_hub laid down is read, and only what it left out is fetched", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", model);
  // As huggingface_hub 2.4 does for AutoModel.from_pretrained; it keeps the bytes of some files once for all repositories.
  const write = (path: string, content: string | Buffer) => {
    mkdirSync(dirname(join(home.directory, "hub", path)), { recursive: true });
    writeFileSync(join(home.directory, "hub", path), content);
  };
  const link = (path: string, target: string) => {
    mkdirSync(dirname(join(home.directory, "hub", path)), { recursive: true });
    symlinkSync(target, join(home.directory, "hub", path));
  };
  const repo = "models--org--tiny";
  write("CACHEDIR.TAG", "");
  write(`.locks/${repo}/${sha256(weights)}.lock`, "");
  write(`${repo}/refs/main`, commit);
  write(`${repo}/trees/${commit}.json`, "{}");
  write(`${repo}/blobs/${gitBlob(model["config.json"])}`, model["config.json"]);
  link(`${repo}/snapshots/${commit}/config.json`, `../../blobs/${gitBlob(model["config.json"])}`);
  write("blobs/ab/abcd", weights);
  link(`${repo}/blobs/${sha256(weights)}`, "../../blobs/ab/abcd");
  link(`${repo}/snapshots/${commit}/model.safetensors`, `../../blobs/${sha256(weights)}`);

  vi.stubEnv("HF_HUB_OFFLINE", "1");
  const directory = await downloadModel("org/tiny");
  expect(openCheckpoint(directory).tensors.size).toBeGreaterThan(10);
  vi.stubEnv("HF_HUB_OFFLINE", undefined);
  expect(await downloadModel("org/tiny")).toBe(directory);
  expect(hub.bodies.map(({ path }) => path.split("/").at(-1)).sort()).toEqual(["LICENSE", "generation_config.json", "tokenizer.json"]);
});

test("progress adds up to the bytes of all files that had to be fetched", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  const seen: DownloadProgress[] = [];
  await downloadModel("org/tiny", { onProgress: (progress) => seen.push(progress) });
  const total = Object.values(model).reduce((sum, content) => sum + content.length, 0);
  expect(seen.at(-1)).toMatchObject({ done: total, total });
  expect(seen.every(({ done }, i) => i === 0 || done >= seen[i - 1]!.done)).toBe(true);
  expect(new Set(seen.map(({ file }) => file))).toEqual(new Set(wanted));
});

test("a connection that breaks is taken up where it broke: no byte comes twice", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { breaks: [50_000, 60_000] };
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  const stored = hub.bodies.filter(({ server }) => server === "storage");
  expect(stored.map(({ range, bytes }) => [range, bytes])).toEqual([
    [undefined, 50_000],
    ["bytes=50000-", 60_000],
    ["bytes=110000-", weights.length - 110_000],
  ]);
});

test("a download that was given up is taken up by the next call", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { breaks: [100_000, 0, 0, 0, 0, 0] };
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-unreachable");
  expect(message).toContain(`"model.safetensors" of org/tiny broke off after 100000 of ${weights.length} bytes: `);
  expect(message).toContain("What has arrived is kept; the same command goes on from there.");
  expect(blobs()).toContain(`${sha256(weights)}.incomplete`);
  expect(existsSync(join(repoRoot(), "refs", "main"))).toBe(false);
  hub.served.length = 0;
  hub.faults = {};
  const first: DownloadProgress[] = [];
  const directory = await downloadModel("org/tiny", { onProgress: (progress) => first.push(progress) });
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(hub.bodies.map(({ range, bytes }) => [range, bytes])).toEqual([["bytes=100000-", weights.length - 100_000]]);
  expect(first[0]!.done).toBe(100_000); // what was there counts
  expect(blobs()).not.toContain(`${sha256(weights)}.incomplete`);
}, 20_000);

test("a server that cannot continue is read from the start again", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { breaks: [50_000], ignoresRange: true };
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(hub.bodies.filter(({ server }) => server === "storage").map(({ range, bytes }) => [range, bytes])).toEqual([
    [undefined, 50_000],
    ["bytes=50000-", weights.length],
  ]);
});

test("a connection that stalls counts as broken", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { stallsAfter: 120_000 };
  const directory = await downloadModel("org/tiny", { timeout: 0.3 });
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(hub.bodies.filter(({ server }) => server === "storage").map(({ range }) => range)).toEqual([undefined, "bytes=120000-"]);
});

test("servers in trouble and signed addresses that ran out are tried again", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { storageStatuses: [403, 503], apiStatuses: [503] };
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
});

test("a partial file of something else is found out and fetched anew", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  mkdirSync(join(repoRoot(), "blobs"), { recursive: true });
  writeFileSync(join(repoRoot(), "blobs", `${sha256(weights)}.incomplete`), Buffer.alloc(1000, 7));
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
});

test("other bytes than the Hub lists are not kept: large files", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  const flipped = Buffer.from(weights);
  flipped[1234]! ^= 1;
  hub.faults = { replaced: (bytes, name) => (name === "model.safetensors" ? flipped : bytes) };
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-hash");
  expect(message).toContain(
    `"model.safetensors" of org/tiny arrived with other bytes than the Hub lists: its SHA-256 should be ${sha256(weights)}, and is ${sha256(flipped)}. It was removed.`,
  );
  expect(blobs().filter((name) => name.startsWith(sha256(weights)))).toEqual([]);
});

test("other bytes than the Hub lists are not kept: small files", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  const other = Buffer.from("[]");
  hub.faults = { replaced: (bytes, name) => (name === "tokenizer.json" ? other : bytes) };
  expect((await refusal("org/tiny")).message).toContain(
    `"tokenizer.json" of org/tiny arrived with other bytes than the Hub lists: its git blob id should be ${gitBlob(Buffer.from("{}"))}, and is ${gitBlob(other)}.`,
  );
});

test("other sizes than the Hub lists are not kept, however the server states them", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  for (const [chunked, length, how] of [
    [false, weights.length - 1, `has ${weights.length - 1}`],
    [false, weights.length + 1, `has ${weights.length + 1}`],
    [true, weights.length - 1, `ends at or before byte ${weights.length - 1}`],
    [true, weights.length + 1, "is longer"],
  ] as const) {
    hub.faults = { chunked, replaced: (bytes, name) => (name === "model.safetensors" ? Buffer.concat([bytes, bytes], length) : bytes) };
    const { code, message } = await refusal("org/tiny");
    expect(code).toBe("hub-size");
    expect(message).toContain(`"model.safetensors" of org/tiny should have ${weights.length} bytes by the Hub's list, and ${how}.`);
    expect(blobs().filter((name) => name.startsWith(sha256(weights)))).toEqual([]);
  }
}, 20_000);

test("no such model", async () => {
  const hub = await start();
  expect(await refusal("org/none")).toEqual({
    code: "hub-missing",
    message: `There is no model org/none on ${hub.endpoint}, or it is private. Check the name; for a private model, set HF_TOKEN to an access token of an account that may read it (${hub.endpoint}/settings/tokens).`,
  });
  vi.stubEnv("HF_TOKEN", hub.token);
  expect((await refusal("org/none")).message).toMatch(
    /Check the name, and that the account of the access token from HF_TOKEN may read it\.$/,
  );
});

test("a gated model needs a token, by whichever way it is given; a wrong one is named", async () => {
  const hub = await start();
  hub.host("org/tiny", model, { gated: true });
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-gated");
  expect(message).toContain(`Ask for access at ${hub.endpoint}/org/tiny, make an access token of that account`);

  vi.stubEnv("HF_TOKEN", "hf_wrong");
  expect(await refusal("org/tiny")).toEqual({
    code: "hub-token",
    message: `${hub.endpoint} refuses the access token from HF_TOKEN. Make a new one at ${hub.endpoint}/settings/tokens, or remove it: public models need none.`,
  });

  vi.stubEnv("HF_TOKEN", undefined);
  writeFileSync(join(home.directory, "token"), `${hub.token}\n`);
  await downloadModel("org/tiny");
  rmSync(join(home.directory, "token"));
  expect((await refusal("org/tiny")).code).toBe("hub-gated");
  await downloadModel("org/tiny", { token: hub.token });
});

test("the token goes to the endpoint and nowhere else", async () => {
  const hub = await start();
  hub.host("org/tiny", model, { private: true });
  vi.stubEnv("HF_TOKEN", hub.token);
  await downloadModel("org/tiny");
  const at = (server: string) => new Set(hub.served.filter((s) => s.server === server).map(({ authorization }) => authorization));
  expect(at("hub")).toEqual(new Set([`Bearer ${hub.token}`]));
  expect(at("storage")).toEqual(new Set([undefined]));
});

test("offline, and where the Hub cannot be reached, the cached copy is used and said to be", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  const directory = await downloadModel("org/tiny");
  const notes: string[] = [];
  const onNote = (note: string) => notes.push(note);

  vi.stubEnv("HF_HUB_OFFLINE", "1");
  hub.served.length = 0;
  expect(await downloadModel("org/tiny", { onNote })).toBe(directory);
  expect(hub.served).toEqual([]);
  expect((await refusal("org/other")).message).toBe(
    `org/other cannot be opened: HF_HUB_OFFLINE is set, so that nothing is fetched; and it is not in the cache (${join(home.directory, "hub", "models--org--other")}). Go online once, or copy its files here and give their directory.`,
  );
  vi.stubEnv("HF_HUB_OFFLINE", undefined);

  hub.stop();
  expect(notes).toEqual([]);
  expect(await downloadModel("org/tiny", { onNote })).toBe(directory);
  expect(notes).toEqual([
    `${hub.endpoint} cannot be reached (ECONNREFUSED). Check the connection, and HF_ENDPOINT if it is set. The copy of org/tiny in ${repoRoot()} is used.`,
  ]);
  expect((await refusal("org/other")).code).toBe("hub-offline");

  rmSync(join(directory, "model.safetensors"));
  expect((await refusal("org/tiny")).message).toContain(`only a part of it is in the cache (${directory})`);
});

test("HF_HUB_CACHE goes before HF_HOME", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", model);
  vi.stubEnv("HF_HUB_CACHE", join(home.directory, "elsewhere"));
  expect(await downloadModel("org/tiny")).toBe(join(home.directory, "elsewhere", "models--org--tiny", "snapshots", commit));
});

test("a sharded model: the shards of its index and no others", async () => {
  const hub = await start();
  const files = Object.fromEntries(
    readdirSync(join(fixtures, "llama-tiny-sharded-bf16"))
      .filter((name) => !name.startsWith("expected"))
      .map((name) => [name, fixture("llama-tiny-sharded-bf16", name)]),
  );
  hub.host("org/tiny", { ...files, "model.fp16.safetensors": "not of the index" });
  const directory = await downloadModel("org/tiny");
  expect(readdirSync(directory).sort()).toEqual(Object.keys(files).sort());
  expect(openCheckpoint(directory).tensors.size).toBeGreaterThan(10);
  rmSync(join(directory, Object.keys(files).find((name) => /-of-/.test(name))!));
  vi.stubEnv("HF_HUB_OFFLINE", "1");
  expect((await refusal("org/tiny")).message).toContain("only a part of it is in the cache");
});

test("an adapter", async () => {
  const hub = await start();
  hub.host("org/tiny", {
    "adapter_config.json": fixture("llama-tiny-lora", "adapter_config.json"),
    "adapter_model.safetensors": fixture("llama-tiny-lora", "adapter_model.safetensors"),
    "espalier.json": "{}",
    "optimizer.pt": "a pickle",
  });
  expect(readdirSync(await downloadModel("org/tiny")).sort()).toEqual([
    "adapter_config.json",
    "adapter_model.safetensors",
    "espalier.json",
  ]);
});

test("GGUF: the file that is named, or the only one", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", { "config.json": "{}", "tiny.Q4_K_M.gguf": "GGUF4", "q8/tiny.Q8_0.gguf": "GGUF8" });
  const snapshot = join(repoRoot(), "snapshots", commit);
  expect(await downloadModel("org/tiny/q8/tiny.Q8_0.gguf")).toBe(join(snapshot, "q8/tiny.Q8_0.gguf"));
  expect(readdirSync(snapshot)).toEqual(["q8"]);
  expect(readFileSync(join(snapshot, "q8/tiny.Q8_0.gguf"), "utf8")).toBe("GGUF8");
  expect(await downloadModel("org/tiny", { file: "tiny.Q4_K_M.gguf" })).toBe(join(snapshot, "tiny.Q4_K_M.gguf"));
  expect(await refusal("org/tiny")).toEqual({
    code: "hub-which-file",
    message: 'org/tiny holds 2 GGUF files: say which, as in org/tiny/tiny.Q4_K_M.gguf. There are "tiny.Q4_K_M.gguf", "q8/tiny.Q8_0.gguf".',
  });
  expect(await refusal("org/tiny/none.gguf")).toEqual({
    code: "hub-file-missing",
    message: "org/tiny has no file none.gguf. Its GGUF files: tiny.Q4_K_M.gguf, q8/tiny.Q8_0.gguf.",
  });
  hub.repos.get("org/tiny")!.files.delete("tiny.Q4_K_M.gguf");
  expect(await downloadModel("org/tiny")).toBe(join(snapshot, "q8/tiny.Q8_0.gguf"));
});

test("pickles are refused and never fetched", async () => {
  const hub = await start();
  hub.host("org/tiny", { "config.json": "{}", "pytorch_model.bin": "a pickle" });
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("checkpoint-pickle");
  expect(message).toContain("org/tiny: has its weights only as pytorch_model.bin, a Python pickle");
  expect(message).toContain("org/tiny@refs/pr/1");
  expect(hub.bodies).toEqual([]);
});

test("a repository without a model", async () => {
  const hub = await start();
  hub.host("org/tiny", { "README.md": "x", "model_index.json": "{}" });
  expect(await refusal("org/tiny")).toEqual({
    code: "hub-no-model",
    message:
      'org/tiny holds no model that Espalier reads: neither model.safetensors nor an index of shards, no adapter and no GGUF file. It has "README.md", "model_index.json".',
  });
});

test("names that lead out of the snapshot", async () => {
  const hub = await start();
  const index = (shard: string) => JSON.stringify({ weight_map: { w: shard } });
  for (const shard of ["../../../../evil.safetensors", "/tmp/evil.safetensors", "a\\..\\..\\evil.safetensors", "C:evil.safetensors"]) {
    hub.host("org/tiny", { "config.json": "{}", "model.safetensors.index.json": index(shard), [shard]: "evil" });
    expect((await refusal("org/tiny")).code).toBe("checkpoint-index");
  }
  hub.host("org/tiny", { "../evil.gguf": "evil" });
  expect((await refusal("org/tiny")).code).toBe("hub-no-model");
  hub.host("org/tiny", model, { commit: "../../../evil" });
  expect((await refusal("org/tiny")).code).toBe("hub-answer");
  hub.host("org/tiny", { ...model, "../tokenizer.json": "evil", "additional_chat_templates/../../x.jinja": "evil" });
  await downloadModel("org/tiny");
  expect(hub.served.filter(({ path }) => path.includes("evil") || path.includes(".."))).toEqual([]);
  for (const name of ["org/../tiny", "../tiny", "org/tiny@../../x", "org/tiny/../x.gguf", "org//tiny", "a--b/c", "org/tiny@"])
    expect((await refusal(name)).code).toBe("hub-id");
  expect((await refusal("org/tiny", { file: "../x.gguf" })).code).toBe("hub-id");
  expect((await refusal("org/tiny", { revision: "../x" })).code).toBe("hub-id");
});

test("two at once download a file once", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { breaks: [200_000] }; // the first pauses for a while, holding the lock
  const [a, b] = await Promise.all([downloadModel("org/tiny"), downloadModel("org/tiny")]);
  expect(a).toBe(b);
  expect(readFileSync(join(a, "model.safetensors")).equals(weights)).toBe(true);
  const stored = hub.bodies.filter(({ server }) => server === "storage");
  expect(stored.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(weights.length);
  expect(readdirSync(join(home.directory, "hub", ".locks", "models--org--tiny"))).toEqual([]);
});

test("the lock of a process that died holds nobody up", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  const { hostname } = await import("node:os");
  const { spawnSync } = await import("node:child_process");
  const { pid } = spawnSync(process.execPath, ["--version"]);
  const locks = join(home.directory, "hub", ".locks", "models--org--tiny");
  mkdirSync(locks, { recursive: true });
  writeFileSync(join(locks, `${sha256(weights)}.espalier.lock`), JSON.stringify({ host: hostname(), pid }));
  await downloadModel("org/tiny");
  expect(readdirSync(locks)).toEqual([]);
});

test("full disks: by what the file system says before, and by what the kernel says in between", async () => {
  const hub = await start();
  const { files } = hub.host("org/tiny", model);
  mkdirSync(join(repoRoot(), "blobs"), { recursive: true });
  if (existsSync("/dev/full")) {
    symlinkSync("/dev/full", join(repoRoot(), "blobs", `${sha256(weights)}.incomplete`));
    const { code, message } = await refusal("org/tiny");
    expect(code).toBe("disk-full");
    expect(message).toContain("the disk or quota is full (ENOSPC). What has arrived is kept");
  }
  hub.served.length = 0;
  files.set("model.safetensors", { large: true, bytes: Object.assign(Buffer.from("x"), {}) });
  Object.defineProperty(files.get("model.safetensors")!.bytes, "length", { value: 1e15 });
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("disk-full");
  expect(message).toMatch(/the download needs 1000000\.0 GB, and the disk has [\d.]+ GB left/);
  expect(hub.bodies).toEqual([]);
});

test("a home that cannot be written", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  writeFileSync(join(home.directory, "file"), "");
  vi.stubEnv("HF_HOME", join(home.directory, "file"));
  expect((await refusal("org/tiny")).code).toBe("not-writable");
});

test("an endpoint that is no Hub", async () => {
  vi.stubEnv("HF_ENDPOINT", "huggingface.co");
  expect((await refusal("org/tiny")).code).toBe("hub-endpoint");
  expect((await refusal("org/tiny", { endpoint: "http://127.0.0.1:9/" })).message).toContain("http://127.0.0.1:9 cannot be reached");
});

test("giving up: what has arrived stays for the next time", async () => {
  const hub = await start();
  hub.host("org/tiny", model);
  hub.faults = { stallsAfter: 120_000 };
  const controller = new AbortController();
  const onProgress = ({ fileDone }: DownloadProgress) => fileDone >= 120_000 && controller.abort(new Error("enough"));
  await expect(downloadModel("org/tiny", { signal: controller.signal, onProgress })).rejects.toThrow("enough");
  hub.faults = {};
  hub.served.length = 0;
  await downloadModel("org/tiny");
  expect(hub.bodies.at(-1)).toMatchObject({ range: "bytes=120000-" });
});

test("copies in place of links are taken for what they are, and a link without its blob is mended", async () => {
  const hub = await start();
  const { commit } = hub.host("org/tiny", model);
  const directory = join(repoRoot(), "snapshots", commit);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "tokenizer.json"), "{}"); // as huggingface_hub leaves it on Windows
  symlinkSync("../../blobs/gone", join(directory, "config.json"));
  await downloadModel("org/tiny");
  expect(lstatSync(join(directory, "tokenizer.json")).isFile()).toBe(true);
  expect(hub.bodies.some(({ path }) => path.endsWith("tokenizer.json"))).toBe(false);
  expect(readFileSync(join(directory, "config.json")).equals(model["config.json"])).toBe(true);
});
