/**
 * From the command to the first finished step of training: `espalier train` as a process of its own, on a random checkpoint of SmolLM2-135M's shape that lies on
 * the disk and a file of data whose token ids are cached; and how much of a step is spent outside of ONNX Runtime.
 */
import { spawn } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../src/graph/index.ts";
import { median, round, settle } from "./machine.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { layersOf, smoke, steps } from "./shapes.ts";

interface Step {
  dataMilliseconds: number;
  sessionMilliseconds: number;
  restMilliseconds: number;
}

/** Steps of a run; the first ones of a program are slower. */
const stepsOfRun = { smoke: 4, full: 8 };
const warmUp = 2;

export async function benchFirstStep(options: { smoke: boolean; repeats: number }): Promise<Record<string, unknown>> {
  const spec = options.smoke ? smoke(steps["smollm2-lora"]) : steps["smollm2-lora"];
  const { directory, bytes, remove } = randomCheckpoint(spec.shape, layersOf(spec), "float32");
  try {
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join("models/sapling", file), join(directory, file));
    const data = join(directory, "data.jsonl");
    writeFileSync(data, texts(options.smoke ? 60 : 400));
    const args = [
      ...["--no-config", "--model", directory, "--data", data, "--task", "language-modeling", "--targets", "q_proj,v_proj"],
      ...["--batch-size", String(spec.batch), "--max-length", String(spec.time), "--no-baseline", "--no-report"],
    ];
    const count = options.smoke ? stepsOfRun.smoke : stepsOfRun.full;
    await timedRun(directory, args, 1); // fills the caches
    const runs = [];
    for (let i = 0; i < options.repeats; i++) {
      await settle();
      runs.push(await timedRun(directory, args, count));
    }
    const warm = runs.flatMap((run) => run.steps.slice(warmUp));
    const all = (s: Step) => s.dataMilliseconds + s.sessionMilliseconds + s.restMilliseconds;
    const share = (of: (s: Step) => number) => round(median(warm.map((s) => of(s) / all(s))), 4);
    return {
      modelMB: Math.round(bytes / 1e6),
      commands: runs.length,
      secondsToFirstStep: round(median(runs.map((run) => run.seconds)), 2),
      ofWhichTheStepItself: round(median(runs.map((run) => all(run.steps[0]!) / 1000)), 2),
      shortestSecondsToFirstStep: round(Math.min(...runs.map((run) => run.seconds)), 2),
      stepSeconds: round(median(warm.map(all)) / 1000, 3),
      shareOutsideSession: share((s) => all(s) - s.sessionMilliseconds),
      shareWaitingForData: share((s) => s.dataMilliseconds),
    };
  } finally {
    remove();
  }
}

/** Runs the command until it has finished some steps, then ends it. */
async function timedRun(directory: string, args: readonly string[], count: number): Promise<{ seconds: number; steps: Step[] }> {
  const run = join(directory, "run");
  rmSync(run, { recursive: true, force: true });
  const metrics = join(run, "metrics.jsonl");
  const started = performance.now();
  const child = spawn(
    process.execPath,
    ["--import", "tsx", "src/cli/main.ts", "train", ...args, "--steps", String(count + 1), "--run", run],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let errors = "";
  child.stderr.on("data", (text) => (errors += text));
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  let seconds = 0;
  let lines: string[] = [];
  while (lines.length < count) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    if (child.exitCode !== null) throw new Error(`espalier train ended early: ${errors.trim().split("\n").at(-1)}`);
    lines = existsSync(metrics) ? readFileSync(metrics, "utf8").split("\n").slice(0, -1) : [];
    if (seconds === 0 && lines.length > 0) seconds = (performance.now() - started) / 1000;
  }
  child.kill("SIGKILL");
  await ended;
  return { seconds, steps: lines.slice(0, count).map((line) => JSON.parse(line) as Step) };
}

/** Texts of random words, one JSON line each: near-duplicates could not be split. */
function texts(count: number): string {
  const random = new Random(4);
  const word = () => String.fromCharCode(...Array.from({ length: 2 + random.integer(7) }, () => 97 + random.integer(26)));
  return Array.from({ length: count }, () => `${JSON.stringify({ text: Array.from({ length: 100 }, word).join(" ") })}\n`).join("");
}
