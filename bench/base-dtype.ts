/**
 * The ways to keep a frozen base, on the shape of SmolLM2-135M: memory of a process that trains a LoRA adapter on it (each in a process of its
 * own), the time of a training step against that of the float32 base, and the speed of decoding. Weights are random; see base-dtype-quality for
 * what the rounding costs.
 */
import { spawnSync } from "node:child_process";
import { Decoder, sample } from "../src/generate/index.ts";
import { Random } from "../src/graph/index.ts";
import { type BaseDtype, baseDtypes, loadCausalLM, setBaseDtype } from "../src/models/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { median, round } from "./machine.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { layersOf, smoke, steps } from "./shapes.ts";
import { type OpenStep, openStep } from "./training-step.ts";

type Step = OpenStep["step"];

export async function benchBaseDtype(options: { smoke: boolean; repeats: number }): Promise<Record<string, unknown>> {
  const spec = options.smoke ? smoke(steps["smollm2-lora"]) : steps["smollm2-lora"];
  const { directory, remove } = randomCheckpoint(spec.shape, layersOf(spec), "float32");
  try {
    const reference = await openStep(directory, spec, "f32");
    const figures: Record<string, unknown> = {};
    for (const dtype of baseDtypes) {
      const own = dtype === "f32" ? reference : await openStep(directory, spec, dtype);
      const times = await compare(reference.step, own.step, options.smoke ? 1 : options.repeats);
      if (own !== reference) await own.dispose();
      const memory = JSON.parse(child(directory, dtype, JSON.stringify(spec))) as Record<string, number>;
      figures[dtype] = { ...times, ...memory, ...(await decode(directory, dtype, options.smoke ? 8 : 64)) };
      process.stderr.write(`${dtype} done\n`);
    }
    await reference.dispose();
    return figures;
  } finally {
    remove();
  }
}

/** Steps of the two in turn, so that a machine whose speed drifts is compared with itself. */
async function compare(reference: Step, step: Step, repeats: number) {
  const [seconds, ratios, work]: [number[], number[], number[]] = [[], [], []];
  await reference();
  await step();
  for (let i = 0; i < repeats; i++) {
    const [before, own] = [await timed(reference), await timed(step)];
    seconds.push(own.seconds);
    ratios.push(before.seconds / own.seconds);
    work.push(before.processorSeconds / own.processorSeconds);
  }
  return {
    stepSeconds: round(median(seconds), 3),
    bestStepSeconds: round(Math.min(...seconds), 3),
    timesAsFastAsF32: round(median(ratios), 2),
    // On a machine with other programs the processor's own time is the steadier measure.
    processorTimeRatio: round(median(work), 2),
  };
}

async function timed(step: Step) {
  // The other session's threads fall asleep first.
  await new Promise((resolve) => setTimeout(resolve, 150));
  const [started, processor] = [performance.now(), process.cpuUsage()];
  await step();
  const used = process.cpuUsage(processor);
  return { seconds: (performance.now() - started) / 1000, processorSeconds: (used.user + used.system) / 1e6 };
}

async function decode(directory: string, dtype: BaseDtype, tokens: number) {
  const model = loadCausalLM(directory);
  setBaseDtype(model, dtype);
  const device = cpu();
  const decoder = await Decoder.create(device, model.freeze());
  const random = new Random(1);
  const decoding = await decoder.start([Array.from({ length: 16 }, () => random.integer(model.config.vocab_size))]);
  const seconds: number[] = [];
  for (let i = 0; i < tokens; i++) {
    const next = sample(decoding.logits(), [], {}, random);
    const started = performance.now();
    await decoding.push([next]);
    seconds.push((performance.now() - started) / 1000);
  }
  await decoder.dispose();
  await device.dispose();
  return { decodeTokensPerSecond: round(1 / median(seconds), 1) };
}

function child(...args: string[]): string {
  const run = spawnSync(process.execPath, ["--expose-gc", "--import", "tsx", "bench/base-dtype-step.ts", ...args], { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`base-dtype-step ${args.join(" ")}: ${run.stderr}`);
  return run.stdout;
}
