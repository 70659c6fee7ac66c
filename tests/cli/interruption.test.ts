import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import { espalier, refusal, scratch, startEspalier, summary } from "./command.ts";
import { sentences, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const text = writeText(at("text.txt"));
// Dropout and warm-up too: both depend on the step.
const job = ["--model", model, "--data", text, "--max-length", "64", "--batch-size", "16", "--dropout", "0.1", "--threads", "1"];
const steps = 120;
const train = (run: string, ...flags: string[]) => ["train", ...job, "--steps", `${steps}`, "--run", run, ...flags];

const weights = (run: string) => readFileSync(join(run, "adapter/adapter_model.safetensors"));
const losses = (run: string) =>
  readFileSync(join(run, "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss: number })
    .map(({ step, loss }) => ({ step, loss }));

/** Waits for something that a child process brings about. */
async function until(condition: () => boolean, done: Promise<unknown>): Promise<void> {
  let ended = false;
  done.finally(() => (ended = true));
  while (!condition()) {
    if (ended) throw new Error(`the command ended too early: ${JSON.stringify(await done)}`);
    await setTimeout(10);
  }
}

beforeAll(async () => {
  summary(await espalier(...train(at("whole"), "--json")));
});

describe("Ctrl-C", () => {
  test("saves a checkpoint and ends with 130; resumed, the run equals one that was never stopped, bit for bit", async () => {
    const run = at("parts");
    const { child, done } = startEspalier(train(run));
    const metrics = join(run, "metrics.jsonl");
    await until(() => existsSync(metrics) && readFileSync(metrics, "utf8").split("\n").length > 5, done);
    child.kill("SIGINT");
    child.kill("SIGINT"); // as npm does, which passes on what the terminal sent to both
    const { code, stdout, stderr } = await done;
    expect({ code, stderr }).toEqual({ code: 130, stderr: "" });
    const [, step, checkpoint] = /Stopped at step (\d+) of 120\. Checkpoint: (\S+)\. Continue with --resume \S+\./.exec(stdout) ?? [];
    expect(Number(step)).toBeGreaterThanOrEqual(5);
    expect(checkpoint).toBe(join(run, `checkpoints/step-${step}`));
    expect(readdirSync(checkpoint!).sort()).toEqual(["SHA256SUMS", "state.safetensors", "trainer.json"]);
    expect(existsSync(join(run, "adapter"))).toBe(false);

    const resumed = summary(await espalier(...train(run, "--resume", "--json")));
    expect(resumed).toMatchObject({ steps });
    expect(weights(run)).toEqual(weights(at("whole")));
    expect(losses(run)).toEqual(losses(at("whole")));
  });

  test("while the base model is measured ends at once: there is nothing to save", async () => {
    writeFileSync(at("long.txt"), sentences.join(" ").repeat(20));
    const run = at("early");
    const flags = ["--model", model, "--data", text, "--eval-data", at("long.txt"), "--batch-size", "1", "--max-length", "2", "--run", run];
    const { child, done, outcome } = startEspalier(["train", ...flags]);
    await until(() => outcome.stdout.includes("parameters are trained"), done);
    child.kill("SIGINT");
    expect(await done).toMatchObject({ code: 130, stderr: "" });
    expect(readdirSync(run)).toEqual([]);
  });

  test("a second time ends at once, in the middle of a step", async () => {
    const run = at("twice");
    const { child, done, outcome } = startEspalier(["train", ...job, "--steps", "2", "--accumulate", "20000", "--run", run]);
    await until(() => existsSync(join(run, "run.json")), done);
    child.kill("SIGINT");
    await until(() => outcome.stdout.includes("Press Ctrl-C again to stop at once."), done);
    await setTimeout(500); // a signal right after the first counts as its echo
    child.kill("SIGINT");
    expect(await done).toMatchObject({ code: 130, stderr: "" });
    expect(existsSync(join(run, "checkpoints"))).toBe(false);
    // Stopped before its first checkpoint, a run begins anew.
    const again = await espalier("train", ...job, "--steps", "2", "--accumulate", "20000", "--run", run, "--resume", "--rank", "4");
    expect(refusal(again)).toContain("--rank was 8 and is now 4");
  });
});

test("killed between checkpoints, a run goes on from the last one to the same weights", async () => {
  const run = at("killed");
  const { child, done } = startEspalier(train(run, "--checkpoint-every", "10"));
  await until(() => existsSync(join(run, "checkpoints/step-20")), done);
  child.kill("SIGKILL");
  expect(await done).toMatchObject({ signal: "SIGKILL" });
  expect(summary(await espalier(...train(run, "--resume", "--json")))).toMatchObject({ steps });
  expect(weights(run)).toEqual(weights(at("whole")));
  expect(losses(run)).toEqual(losses(at("whole")));
});

const canMount = (() => {
  try {
    execFileSync("unshare", ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

test.skipIf(!canMount)("a disk that fills up at a checkpoint: the message says so, and the run goes on from the one before", async () => {
  // A disk of its own, which vanishes with the process; a checkpoint takes about 90 kB, and three of them must exist at once.
  const [disk, copy] = [at("disk"), at("copy")];
  execFileSync("mkdir", [disk, copy]);
  const script = 'mount -t tmpfs -o size=260k tmpfs "$0" && to="$1" && shift && { "$@"; code=$?; cp -r "$0"/run "$to"; exit $code; }';
  const wrap = (command: string[]) => ["unshare", "-rm", "sh", "-c", script, disk, copy, ...command];
  const run = join(disk, "run");
  const outcome = await startEspalier(train(run, "--checkpoint-every", "10"), { wrap }).done;
  expect(refusal(outcome)).toMatch(
    new RegExp(
      `^espalier: Could not write the checkpoint of step 30 to ${run}/checkpoints/step-30: .*the disk or quota is full \\(ENOSPC\\).* The checkpoint of step 20 is intact in ${run}/checkpoints/step-20\\.\n$`,
    ),
  );
  const saved = join(copy, "run");
  expect(readdirSync(join(saved, "checkpoints")).sort()).toEqual(["step-10", "step-20"]);
  expect(summary(await espalier(...train(saved, "--resume", "--json")))).toMatchObject({ steps });
  expect(weights(saved)).toEqual(weights(at("whole")));
});
