/** Bytes that come late, broken, twice or wrong. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { ownHome } from "../../../tests/hub/environment.ts";
import { gitBlob, sha256 } from "../../../tests/hub/hub-server.ts";
import { blobs, model, modelFiles, refusal, repoRoot, startHub, weights } from "../../../tests/hub/tiny-repo.ts";
import { type DownloadProgress, downloadModel } from "./download-model.ts";

const home = ownHome();

test("progress adds up to the bytes of all files that had to be fetched", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model);
  const seen: DownloadProgress[] = [];
  await downloadModel("org/tiny", { onProgress: (progress) => seen.push(progress) });
  const total = Object.values(model).reduce((sum, content) => sum + content.length, 0);
  expect(seen.at(-1)).toMatchObject({ done: total, total });
  expect(seen.every(({ done }, i) => i === 0 || done >= seen[i - 1]!.done)).toBe(true);
  expect(new Set(seen.map(({ file }) => file))).toEqual(new Set(modelFiles));
});

test("a connection that breaks is taken up where it broke: no byte comes twice", async () => {
  const hub = await startHub();
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
  const hub = await startHub();
  hub.host("org/tiny", model);
  hub.faults = { breaks: [100_000, 0, 0, 0, 0, 0] };
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-unreachable");
  expect(message).toContain(`"model.safetensors" of org/tiny broke off after 100000 of ${weights.length} bytes: `);
  expect(message).toContain("What has arrived is kept; the same command goes on from there.");
  expect(blobs(home)).toContain(`${sha256(weights)}.incomplete`);
  expect(existsSync(join(repoRoot(home), "refs", "main"))).toBe(false);
  hub.served.length = 0;
  hub.faults = {};
  const first: DownloadProgress[] = [];
  const directory = await downloadModel("org/tiny", { onProgress: (progress) => first.push(progress) });
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(hub.bodies.map(({ range, bytes }) => [range, bytes])).toEqual([["bytes=100000-", weights.length - 100_000]]);
  expect(first[0]!.done).toBe(100_000); // what was there counts
  expect(blobs(home)).not.toContain(`${sha256(weights)}.incomplete`);
}, 20_000);

test("a server that cannot continue is read from the start again", async () => {
  const hub = await startHub();
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
  const hub = await startHub();
  hub.host("org/tiny", model);
  hub.faults = { stallsAfter: 120_000 };
  const directory = await downloadModel("org/tiny", { timeout: 0.3 });
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
  expect(hub.bodies.filter(({ server }) => server === "storage").map(({ range }) => range)).toEqual([undefined, "bytes=120000-"]);
});

test("servers in trouble and signed addresses that ran out are tried again", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model);
  hub.faults = { storageStatuses: [403, 503], apiStatuses: [503] };
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
});

test("a partial file of something else is found out and fetched anew", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model);
  mkdirSync(join(repoRoot(home), "blobs"), { recursive: true });
  writeFileSync(join(repoRoot(home), "blobs", `${sha256(weights)}.incomplete`), Buffer.alloc(1000, 7));
  const directory = await downloadModel("org/tiny");
  expect(readFileSync(join(directory, "model.safetensors")).equals(weights)).toBe(true);
});

test("other bytes than the Hub lists are not kept: large files", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model);
  const flipped = Buffer.from(weights);
  flipped[1234]! ^= 1;
  hub.faults = { replaced: (bytes, name) => (name === "model.safetensors" ? flipped : bytes) };
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-hash");
  expect(message).toContain(
    `"model.safetensors" of org/tiny arrived with other bytes than the Hub lists: its SHA-256 should be ${sha256(weights)}, and is ${sha256(flipped)}. It was removed.`,
  );
  expect(blobs(home).filter((name) => name.startsWith(sha256(weights)))).toEqual([]);
});

test("other bytes than the Hub lists are not kept: small files", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model);
  const other = Buffer.from("[]");
  hub.faults = { replaced: (bytes, name) => (name === "tokenizer.json" ? other : bytes) };
  expect((await refusal("org/tiny")).message).toContain(
    `"tokenizer.json" of org/tiny arrived with other bytes than the Hub lists: its git blob id should be ${gitBlob(Buffer.from("{}"))}, and is ${gitBlob(other)}.`,
  );
});

test("other sizes than the Hub lists are not kept, however the server states them", async () => {
  const hub = await startHub();
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
    expect(blobs(home).filter((name) => name.startsWith(sha256(weights)))).toEqual([]);
  }
}, 20_000);

test("two at once download a file once", async () => {
  const hub = await startHub();
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
  const hub = await startHub();
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
  const hub = await startHub();
  const { files } = hub.host("org/tiny", model);
  mkdirSync(join(repoRoot(home), "blobs"), { recursive: true });
  if (existsSync("/dev/full")) {
    symlinkSync("/dev/full", join(repoRoot(home), "blobs", `${sha256(weights)}.incomplete`));
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
  const hub = await startHub();
  hub.host("org/tiny", model);
  writeFileSync(join(home.directory, "file"), "");
  vi.stubEnv("HF_HOME", join(home.directory, "file"));
  expect((await refusal("org/tiny")).code).toBe("not-writable");
});

test("giving up: what has arrived stays for the next time", async () => {
  const hub = await startHub();
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
