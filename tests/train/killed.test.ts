/** Runs that are killed at random moments, again and again, and go on: at the end every byte is that of a run that was never killed. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { build } from "tsdown";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Random } from "../../src/graph/index.ts";
import { timingFields } from "../../src/train/metrics-log.ts";

const directory = mkdtempSync(join(tmpdir(), "espalier-killed-"));
const root = fileURLToPath(new URL("../..", import.meta.url));
const children = new Set<ChildProcess>();

beforeAll(async () => {
  // One file starts faster than many that are compiled on the way, and there are many starts.
  const entry = [join(root, "tests/train/killed-run.ts")];
  await build({ config: false, cwd: root, entry, outDir: directory, dts: false, clean: false, platform: "node", logLevel: "silent" });
  symlinkSync(join(root, "node_modules"), join(directory, "node_modules"));
});

afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

function start(kind: string, run: string) {
  const child = spawn(process.execPath, [join(directory, "killed-run.mjs"), kind, run], { stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  const said = { out: "", error: "" };
  child.stdout!.on("data", (text) => (said.out += text));
  child.stderr!.on("data", (text) => (said.error += text));
  const ended = new Promise<{ code: number | null }>((resolve) => child.on("close", (code) => resolve({ code })));
  let running = true;
  ended.then(() => {
    running = false;
    children.delete(child);
  });
  return { child, said, ended, isRunning: () => running };
}

type Run = ReturnType<typeof start>;

const unfinished = (run: string) =>
  existsSync(join(run, "checkpoints")) && readdirSync(join(run, "checkpoints")).some((name) => /^\.step-\d+\.tmp$/.test(name));

/** Waits for a moment of the run: any at all, one among its steps, or one at which it writes a checkpoint. */
async function moment(run: string, process: Run, random: Random): Promise<void> {
  const until = async (condition: () => boolean) => {
    while (process.isRunning() && !condition()) await setTimeout(0);
  };
  const choice = random.integer(6);
  if (choice === 0) return void (await setTimeout(random.uniform() * 400));
  await until(() => process.said.out.includes("step"));
  await setTimeout(random.uniform() * 150);
  if (choice < 4) return;
  await until(() => unfinished(run));
  await setTimeout(random.integer(4));
}

/** All that a run leaves, but for how fast it went. */
function left(run: string): Record<string, unknown> {
  const files = readdirSync(run, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(
    files
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [file.slice(run.length + 1), file.endsWith("metrics.jsonl") ? metrics(file) : readFileSync(file).toString("base64")]),
  );
}

const metrics = (file: string) =>
  readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => Object.entries(JSON.parse(line) as object).filter(([name]) => !timingFields.has(name)));

test.each([
  ["adapter", 8, 11],
  ["averaged", 8, 12],
  ["whole", 8, 13],
])("%s: killed %d times", async (kind, kills, seed) => {
  const whole = join(directory, `${kind}-whole`);
  const unkilled = start(kind, whole);
  expect(await unkilled.ended, unkilled.said.error).toEqual({ code: 0 });
  const expected = left(whole);
  expect((expected["metrics.jsonl"] as unknown[]).length).toBeGreaterThan(60);

  const random = new Random(seed, 0);
  let [killed, atCheckpoint] = [0, 0];
  for (let n = 0; killed < kills; n++) {
    const run = join(directory, `${kind}-${n}`);
    for (let done = false; !done; ) {
      const process = start(kind, run);
      if (killed < kills) {
        await moment(run, process, random);
        process.child.kill("SIGKILL");
      }
      const { code } = await process.ended;
      done = code === 0;
      expect(process.said.error).toBe("");
      if (done) continue;
      expect(code).toBeNull();
      killed++;
      if (unfinished(run)) atCheckpoint++;
    }
    expect(left(run)).toEqual(expected);
  }
  expect(atCheckpoint).toBeGreaterThan(0);
});
