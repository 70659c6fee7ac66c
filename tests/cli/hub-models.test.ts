/** Models and adapters by their names on the Hub, from a local server that speaks its protocol. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { ownHome } from "../hub/environment.ts";
import { HubServer, sha256 } from "../hub/hub-server.ts";
import { espalier, refusal, scratch, startEspalier, summary } from "./command.ts";
import { writeLabelled, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const home = ownHome();
const tiny = writeTinyModel(join(directory, "tiny"));
const filesOf = (path: string) => Object.fromEntries(readdirSync(path).map((name) => [name, readFileSync(join(path, name))]));

async function start(): Promise<HubServer> {
  const hub = await HubServer.start();
  vi.stubEnv("HF_ENDPOINT", hub.endpoint);
  hub.host("org/tiny", filesOf(tiny), { revisions: ["v1"] });
  return hub;
}

test("generate --model org/tiny downloads with a progress line and continues as the directory does; offline, from the cache", async () => {
  const hub = await start();
  const ask = ["generate", "--prompt", "the gardener", "--max-new-tokens", "5", "--json", "--model"];
  const local = JSON.parse((await espalier(...ask, tiny)).stdout.trim().split("\n").at(-1)!);
  const { code, stdout, stderr } = await espalier(...ask, "org/tiny");
  expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/^download .* kB\/\d+ kB {2}/) });
  expect(JSON.parse(stdout.trim().split("\n").at(-1)!)).toMatchObject({ text: local.text, ids: local.ids });

  hub.served.length = 0;
  expect(summary(await espalier(...ask, "org/tiny"))).toMatchObject({ ids: local.ids });
  expect(hub.bodies).toEqual([]);
  hub.stop();
  const cached = await espalier(...ask, "org/tiny");
  expect(cached.code).toBe(0);
  expect(cached.stderr).toMatch(/cannot be reached \(ECONNREFUSED\).* The copy of org\/tiny in .* is used\.\n$/);
  vi.stubEnv("HF_HUB_OFFLINE", "1");
  expect(summary(await espalier(...ask, "org/tiny"))).toMatchObject({ ids: local.ids });
});

test("what is trained on a model of the Hub names it as PEFT does, and is used by its own name on the Hub", async () => {
  const hub = await start();
  const data = writeLabelled(join(directory, "data.jsonl"));
  const run = join(directory, "run");
  const args = ["--data", data, "--steps", "2", "--batch-size", "4", "--max-length", "32", "--threads", "1", "--run", run];
  expect((await espalier("train", "--model", "org/tiny@v1", ...args)).code).toBe(0);
  const adapter = join(run, "adapter");
  expect(JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"))).toMatchObject({
    base_model_name_or_path: "org/tiny",
    revision: "v1",
  });
  hub.host("me/adapter", filesOf(adapter));
  rmSync(join(home.directory, "hub"), { recursive: true });
  const text = join(directory, "a.txt");
  writeFileSync(text, "a pear tree");
  const { code, stdout } = await espalier("classify", "--adapter", "me/adapter", text);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^(tree|other) .*a\.txt\n$/);
  expect(hub.served.some(({ path }) => path === "/api/models/org/tiny/revision/v1")).toBe(true);

  const output = join(directory, "merged");
  expect(summary(await espalier("merge", "--adapter", "me/adapter", "--output", output, "--json"))).toMatchObject({ output });
  expect(existsSync(join(output, "model.safetensors"))).toBe(true);
  hub.repos.delete("org/tiny");
  expect(refusal(await espalier("classify", "--adapter", "me/adapter", text))).toMatch(
    /its base model cannot be had\. org\/tiny@v1: there is no such path here\. There is no model org\/tiny on .* Or give its directory with --model\.\n$/,
  );
});

test("eval and inspect take names too; a name that is neither a path nor on the Hub", async () => {
  await start();
  const text = writeText(join(directory, "text.txt"));
  expect((await espalier("eval", "--model", "org/tiny", "--data", text, "--max-length", "32")).code).toBe(0);
  expect(summary(await espalier("inspect", "--model", "org/tiny", "--max-length", "32", "--json"))).toMatchObject({ model: "org/tiny" });
  expect(refusal(await espalier("inspect", "--model", "org/tinny"))).toMatch(
    /^espalier: org\/tinny: there is no such path here\. There is no model org\/tinny on http/,
  );
  for (const path of ["./tinny", "a/b/c", "tinny/", "tiny.gguf"])
    expect(refusal(await espalier("inspect", "--model", path))).toContain(`${path}: cannot be opened, there is no such directory.`);
});

test("Ctrl-C stops a download; the next command goes on from there", async () => {
  const hub = await start();
  hub.faults = { stallsAfter: 20_000 };
  const command = startEspalier(["inspect", "--model", "org/tiny"]);
  const blobs = join(home.directory, "hub", "models--org--tiny", "blobs");
  await vi.waitUntil(() => partial(blobs).length === 20_000, 30_000);
  command.child.kill("SIGINT");
  const { code, stderr } = await command.done;
  expect({ code, stderr }).toMatchObject({ code: 130, stderr: expect.stringContaining("what has arrived is kept for the next time") });
  hub.faults = {};
  hub.served.length = 0;
  expect((await espalier("inspect", "--model", "org/tiny", "--max-length", "32")).code).toBe(0);
  expect(hub.bodies.filter(({ server }) => server === "storage").map(({ range }) => range)).toContain("bytes=20000-");
});

test("two commands that want the same model at once download it once", async () => {
  const hub = await start();
  hub.faults = { breaks: [20_000] }; // whoever comes second finds it locked
  const commands = [0, 1].map(() => startEspalier(["inspect", "--model", "org/tiny", "--max-length", "32"]));
  for (const { done } of commands) expect((await done).code).toBe(0);
  const size = readFileSync(join(tiny, "model.safetensors")).length;
  const weights = hub.bodies.filter(
    ({ server, path }) => server === "storage" && path.endsWith(sha256(readFileSync(join(tiny, "model.safetensors")))),
  );
  expect(weights.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(size);
});

/** The largest file that is still under way. */
function partial(blobs: string): Buffer {
  const files = (existsSync(blobs) ? readdirSync(blobs) : []).filter((name) => name.endsWith(".incomplete"));
  return files.map((name) => readFileSync(join(blobs, name))).sort((a, b) => b.length - a.length)[0] ?? Buffer.alloc(0);
}
