/** What of a repository is fetched and where it goes, against a server that speaks the Hub's protocol: see tests/hub/hub-server.ts. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test, vi } from "vitest";
import { ownHome } from "../../../tests/hub/environment.ts";
import { gitBlob, sha256 } from "../../../tests/hub/hub-server.ts";
import { blobs, fixture, fixtures, model, modelFiles, refusal, repoRoot, startHub, weights } from "../../../tests/hub/tiny-repo.ts";
import { openCheckpoint } from "../hf-directory.ts";
import { downloadModel } from "./download-model.ts";

const home = ownHome();

test("a model is fetched whole into the cache's layout, and opens", async () => {
  const hub = await startHub();
  const { commit } = hub.host("org/tiny", {
    ...model,
    "README.md": "a model",
    "pytorch_model.bin": "a pickle",
    "onnx/model.onnx": "another form",
    "training_args.bin": "a pickle",
  });
  const directory = await downloadModel("org/tiny");
  expect(directory).toBe(join(repoRoot(home), "snapshots", commit));
  expect(readdirSync(directory).sort()).toEqual(modelFiles);
  expect(readFileSync(join(repoRoot(home), "refs", "main"), "utf8")).toBe(commit);
  expect(readlinkSync(join(directory, "model.safetensors"))).toBe(join("..", "..", "blobs", sha256(weights)));
  expect(readlinkSync(join(directory, "config.json"))).toBe(join("..", "..", "blobs", gitBlob(model["config.json"])));
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(blobs(home)).toHaveLength(modelFiles.length);
  expect(openCheckpoint(directory).tensors.size).toBeGreaterThan(10);
});

test("a second call fetches no file, a new commit only what changed", async () => {
  const hub = await startHub();
  const first = hub.host("org/tiny", model);
  await downloadModel("org/tiny");
  hub.served.length = 0;
  expect(await downloadModel("org/tiny")).toBe(join(repoRoot(home), "snapshots", first.commit));
  expect(hub.bodies).toEqual([]);
  expect(hub.served.map(({ path }) => path)).toEqual(["/api/models/org/tiny/revision/main", `/api/models/org/tiny/tree/${first.commit}`]);
  const second = hub.host("org/tiny", { ...model, "tokenizer.json": "{ }" }, { commit: "b".repeat(40) });
  expect(await downloadModel("org/tiny")).toBe(join(repoRoot(home), "snapshots", second.commit));
  expect(hub.bodies.map(({ path }) => path)).toEqual([`/org/tiny/resolve/${second.commit}/tokenizer.json`]);
  expect(readFileSync(join(repoRoot(home), "refs", "main"), "utf8")).toBe(second.commit);
});

test("branches, tags and commits", async () => {
  const hub = await startHub();
  const { commit } = hub.host("org/tiny", model, { revisions: ["v1.0", "refs/pr/1"] });
  const snapshot = join(repoRoot(home), "snapshots", commit);
  expect(await downloadModel("org/tiny@v1.0")).toBe(snapshot);
  expect(await downloadModel("org/tiny@refs/pr/1")).toBe(snapshot);
  expect(await downloadModel("org/tiny", { revision: commit })).toBe(snapshot);
  expect(readdirSync(join(repoRoot(home), "refs"), { recursive: true }).sort()).toEqual(["refs", "refs/pr", "refs/pr/1", "v1.0"]);
  expect(await refusal("org/tiny@v2")).toEqual({
    code: "hub-revision",
    message: `org/tiny has no branch, tag or commit "v2". ${hub.endpoint}/org/tiny/tree/main shows which there are.`,
  });
});

test("an old name without an organisation", async () => {
  const hub = await startHub();
  hub.host("tiny", model);
  expect(dirname(dirname(await downloadModel("tiny")))).toBe(join(home.directory, "hub", "models--tiny"));
});

test("a repository that was renamed, with more files than the Hub lists at a time", async () => {
  const hub = await startHub();
  hub.host("org/new", model);
  hub.renamed.set("org/tiny", "org/new");
  hub.pageSize = 2;
  expect(readdirSync(await downloadModel("org/tiny")).sort()).toEqual(modelFiles);
  expect(hub.served.filter(({ path, status }) => path.includes("/tree/") && status === 200)).toHaveLength(3);
});

test("what huggingface_hub laid down is read, and only what it left out is fetched", async () => {
  const hub = await startHub();
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

test("offline, and where the Hub cannot be reached, the cached copy is used and said to be", async () => {
  const hub = await startHub();
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
    `${hub.endpoint} cannot be reached (ECONNREFUSED). Check the connection, and HF_ENDPOINT if it is set. The copy of org/tiny in ${repoRoot(home)} is used.`,
  ]);
  expect((await refusal("org/other")).code).toBe("hub-offline");

  rmSync(join(directory, "model.safetensors"));
  expect((await refusal("org/tiny")).message).toContain(`only a part of it is in the cache (${directory})`);
});

test("HF_HUB_CACHE goes before HF_HOME", async () => {
  const hub = await startHub();
  const { commit } = hub.host("org/tiny", model);
  vi.stubEnv("HF_HUB_CACHE", join(home.directory, "elsewhere"));
  expect(await downloadModel("org/tiny")).toBe(join(home.directory, "elsewhere", "models--org--tiny", "snapshots", commit));
});

test("a sharded model: the shards of its index and no others", async () => {
  const hub = await startHub();
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
  const hub = await startHub();
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
  const hub = await startHub();
  const { commit } = hub.host("org/tiny", { "config.json": "{}", "tiny.Q4_K_M.gguf": "GGUF4", "q8/tiny.Q8_0.gguf": "GGUF8" });
  const snapshot = join(repoRoot(home), "snapshots", commit);
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

test("copies in place of links are taken for what they are, and a link without its blob is mended", async () => {
  const hub = await startHub();
  const { commit } = hub.host("org/tiny", model);
  const directory = join(repoRoot(home), "snapshots", commit);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "tokenizer.json"), "{}"); // as huggingface_hub leaves it on Windows
  symlinkSync("../../blobs/gone", join(directory, "config.json"));
  await downloadModel("org/tiny");
  expect(lstatSync(join(directory, "tokenizer.json")).isFile()).toBe(true);
  expect(hub.bodies.some(({ path }) => path.endsWith("tokenizer.json"))).toBe(false);
  expect(readFileSync(join(directory, "config.json")).equals(model["config.json"])).toBe(true);
});
