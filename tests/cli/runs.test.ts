import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { espalier, refusal, scratch, startEspalier, summary } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const data = writeLabelled(at("data.jsonl"));
const sha256 = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");

const base = ["train", "--model", model, "--steps", "4", "--checkpoint-every", "2", "--max-length", "48", "--threads", "1"];
const train = (run: string, ...flags: string[]) => espalier(...base, "--data", data, "--run", run, ...flags);

async function trained(name: string): Promise<string> {
  expect((await train(at(name))).code).toBe(0);
  return at(name);
}

/** Every file below a directory with its content. */
const files = (root: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [file.slice(root.length + 1), sha256(file)]),
  );

/** Things in a run directory that no run wrote. */
const foreign = ["notes.md", ".notes.tmp", "adapter/README.md", "adapter/.mine.tmp", "checkpoints/best/state.safetensors"];
function addForeign(run: string): void {
  mkdirSync(join(run, "checkpoints/best"), { recursive: true });
  for (const name of foreign) writeFileSync(join(run, name), "mine");
}

describe("a directory that holds a run", () => {
  test("is left alone unless it is to be resumed or replaced", async () => {
    const run = await trained("held");
    const before = files(run);
    expect(refusal(await train(run))).toBe(
      `espalier: ${run} holds a run already. Continue it with --resume, replace it with --replace, or give another --run.\n`,
    );
    expect(files(run)).toEqual(before);
  });

  test("is replaced file by file: what the user put there stays", async () => {
    const run = await trained("replaced");
    addForeign(run);
    writeFileSync(join(run, "checkpoints", "best", "more"), "mine");
    mkdirSync(join(run, "profile"));
    writeFileSync(join(run, "profile", "table.md"), "the old run's");
    expect((await train(run, "--replace", "--steps", "2", "--seed", "1")).code).toBe(0);
    expect(Object.keys(files(run))).toEqual(
      [
        ...[
          "run.json",
          "metrics.jsonl",
          "report.md",
          "loss.svg",
          ...["SHA256SUMS", "state.safetensors", "trainer.json"].map((name) => `checkpoints/step-2/${name}`),
          "checkpoints/best/more",
        ],
        ...["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/espalier.json"],
        ...foreign,
      ].sort(),
    );
    for (const name of foreign) expect(readFileSync(join(run, name), "utf8")).toBe("mine");
  });

  test("keeps its run when the one that would replace it cannot begin", async () => {
    const run = await trained("kept");
    const before = files(run);
    writeFileSync(at("bad.jsonl"), "{");
    refusal(await espalier(...base, "--data", at("bad.jsonl"), "--run", run, "--replace"));
    refusal(await train(run, "--replace", "--targets", "nothing"));
    expect(files(run)).toEqual(before);
  });

  test("is freed of what a killed run left unfinished, and of nothing else", async () => {
    const run = await trained("swept");
    addForeign(run);
    const left = [
      ".run.json.0123456789ab.tmp",
      "adapter/.adapter_model.safetensors.0123456789ab.tmp",
      "checkpoints/.step-9.tmp/state.safetensors",
    ];
    mkdirSync(join(run, "checkpoints/.step-9.tmp"));
    for (const name of left) writeFileSync(join(run, name), "half");
    expect((await train(run, "--resume")).code).toBe(0);
    for (const name of left) expect(existsSync(join(run, name)), name).toBe(false);
    expect(existsSync(join(run, "checkpoints/.step-9.tmp"))).toBe(false);
    for (const name of foreign) expect(existsSync(join(run, name)), name).toBe(true);
  });

  test("is passed over when no --run is given: runs/<data>, runs/<data>-2", async () => {
    const here = process.cwd();
    process.chdir(directory);
    try {
      const once = ["train", "--model", model, "--data", data, "--steps", "1", "--max-length", "48", "--json"];
      expect(summary(await espalier(...once)).adapter).toBe(join("runs", "data", "adapter"));
      expect(summary(await espalier(...once)).adapter).toBe(join("runs", "data-2", "adapter"));
      expect(summary(await espalier(...once, "--replace")).adapter).toBe(join("runs", "data", "adapter"));
      expect(readdirSync("runs").sort()).toEqual(["data", "data-2"]);
    } finally {
      process.chdir(here);
    }
  });
});

describe("--resume", () => {
  test("refuses other data, with both hashes, and changes nothing", async () => {
    const run = await trained("same-data");
    const before = files(run);
    const other = writeLabelled(at("other.jsonl"), 50);
    expect(refusal(await espalier(...base, "--data", other, "--run", run, "--resume"))).toBe(
      `espalier: ${run} cannot be resumed with other data: it was started with ${data} (sha256 ${sha256(data)}), and now there is ${other} (sha256 ${sha256(other)}). data.jsonl is gone (${readFileSync(data).length} bytes, ${sha256(data).slice(0, 8)}…); other.jsonl is new (${readFileSync(other).length} bytes, ${sha256(other).slice(0, 8)}…). Give the same, or start a new run with another --run.\n`,
    );
    expect(refusal(await train(run, "--eval-data", other, "--resume"))).toContain(
      "with other held-out data: it was started with none (sha256 none)",
    );
    expect(files(run)).toEqual(before);
  });

  test("refuses a base model whose weights were changed", async () => {
    const own = writeTinyModel(at("own-model"));
    const run = at("same-model");
    const flags = ["--model", own, "--data", data, "--run", run, "--steps", "1", "--max-length", "48"];
    expect((await espalier("train", ...flags)).code).toBe(0);
    const file = join(own, "model.safetensors");
    const bytes = readFileSync(file);
    bytes.fill(0, bytes.length - 512);
    writeFileSync(file, bytes);
    expect(refusal(await espalier("train", ...flags, "--resume"))).toMatch(
      /with other base model: .*\(sha256 [0-9a-f]{64}\).*\(sha256 [0-9a-f]{64}\)/,
    );
  });

  test("refuses other options by name, but not those that change nothing", async () => {
    const run = await trained("same-options");
    expect(refusal(await train(run, "--resume", "--rank", "4", "--learning-rate", "1"))).toContain(
      "cannot be resumed with other options: --rank was 8 and is now 4; --learning-rate was 0.001 and is now 1.",
    );
    // Before data are read.
    expect(refusal(await espalier("train", "--resume", run, "--rank", "4", "--data", at("nowhere.jsonl")))).toContain(
      "with other options: --rank",
    );
    expect(summary(await train(run, "--resume", "--evaluate-every", "1", "--json"))).toMatchObject({ steps: 4 });
  });

  test("says so when there is nothing to resume, and makes no directory", async () => {
    expect(refusal(await train(at("nothing"), "--resume"))).toBe(
      `espalier: ${at("nothing")} holds no run to resume. Name it with --run, or leave --resume out.\n`,
    );
    expect(existsSync(at("nothing"))).toBe(false);
  });

  test("a damaged checkpoint gives way to the one before; where none is left, each is named", async () => {
    const run = await trained("damaged");
    const whole = files(run);
    writeFileSync(join(run, "checkpoints/step-4/state.safetensors"), "short");
    const { code, stdout } = await espalier("train", "--resume", run);
    expect(code).toBe(0);
    expect(stdout).toMatch(/step-4 is damaged: state\.safetensors has the SHA-256 .*\. The run goes on from step 2\./);
    for (const file of ["checkpoints/step-4/state.safetensors", "adapter/adapter_model.safetensors"])
      expect(files(run)[file]).toBe(whole[file]);
    for (const step of [2, 4]) writeFileSync(join(run, `checkpoints/step-${step}/trainer.json`), "{}");
    expect(refusal(await espalier("train", "--resume", run))).toMatch(
      /no checkpoint is as it was written\. .*step-4 is damaged: .*step-2 is damaged: /,
    );
  });

  test("a data file that was changed in between is refused, with its hashes and sizes", async () => {
    const own = writeLabelled(at("own.jsonl"));
    const run = at("own-run");
    expect((await espalier(...base, "--data", own, "--run", run)).code).toBe(0);
    const [old, bytes] = [sha256(own), readFileSync(own).length];
    writeLabelled(own, 59);
    expect(refusal(await espalier("train", "--resume", run))).toContain(
      `with other data: it was started with ${own} (sha256 ${old}), and now there is ${own} (sha256 ${sha256(own)}). own.jsonl was ${bytes} bytes, ${old.slice(0, 8)}… and is now ${readFileSync(own).length} bytes, ${sha256(own).slice(0, 8)}….`,
    );
  });

  test("a run that another process writes is refused, and nothing is changed", async () => {
    const run = await trained("locked");
    const { child, done, outcome } = startEspalier([...base, "--data", data, "--run", run, "--replace", "--steps", "100000"]);
    while (!existsSync(join(run, "run.lock")) && child.exitCode === null) await setTimeout(10);
    for (const flag of ["--resume", "--replace"])
      expect(refusal(await train(run, flag))).toContain(`${run} is being written by process ${child.pid}: two runs in one directory`);
    // Before data are read.
    const missing = ["--data", at("nowhere.jsonl"), "--run", run, "--replace"];
    expect(refusal(await espalier(...base, ...missing))).toContain(`is being written by process ${child.pid}`);
    child.kill("SIGKILL");
    expect(await done, outcome.stderr).toMatchObject({ signal: "SIGKILL" });
    // Its lock stays, and is worth nothing now.
    expect(existsSync(join(run, "run.lock"))).toBe(true);
    expect((await train(run, "--replace")).code).toBe(0);
    expect(existsSync(join(run, "run.lock"))).toBe(false);
  });
});

describe("a run", () => {
  test("whose rules fit no parameter is refused before the base is measured, and one that it would replace stays", async () => {
    const run = await trained("ruled");
    const before = files(run);
    const outcome = await train(run, "--replace", "--groups", '[{"match": "nothing.*", "learningRateFactor": 2}]');
    expect(refusal(outcome)).toContain('groups: "nothing.*" fits no trained parameter.');
    expect(outcome.stdout).not.toContain("base ");
    expect(files(run)).toEqual(before);
  });

  test("that goes on shows the step that it goes on from, and one duplicate is one", async () => {
    const twice = at("twice.jsonl");
    const lines = readFileSync(data, "utf8");
    writeFileSync(twice, lines + lines.slice(0, lines.indexOf("\n") + 1));
    const run = at("going-on");
    const first = await espalier(...base, "--data", twice, "--run", run);
    expect(first.stdout).toContain("train 0/4  compiling the step");
    expect(first.stdout).toMatch(/^1 duplicate was removed\.$/m);
    rmSync(join(run, "checkpoints/step-4"), { recursive: true });
    const { code, stdout } = await espalier("train", "--resume", run);
    expect(code).toBe(0);
    expect(stdout).toContain("train 2/4  compiling the step");
    expect(stdout).not.toContain("train 0/4");
  });

  test("that cannot be written is refused before anything is computed", async () => {
    const { code, stdout, stderr } = await train(join(data, "run"));
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/data\.jsonl\/run: cannot be created \(ENOTDIR/) });
    expect(stdout).not.toContain("base ");
  });

  test("whose loss is no longer a number stops, and names step, batch and last checkpoint", async () => {
    const run = at("diverged");
    const outcome = await train(run, "--learning-rate", "1e30", "--warmup", "0", "--steps", "9", "--checkpoint-every", "1");
    expect(refusal(outcome)).toMatch(
      /^espalier: Step \d: (the (loss|gradient norm) became (NaN|-?Infinity) on .*data\.jsonl.*|".*" holds NaN or infinite values after the update.*)(checkpoint)/s,
    );
    expect(outcome.stderr).toContain("Lower the learning rate");
    expect(existsSync(join(run, "adapter"))).toBe(false);
  });
});
