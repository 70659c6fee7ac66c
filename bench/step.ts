/**
 * Training steps as a share of the matmul peak. Elementwise work, softmax, clipping and the optimizer count as lost time.
 *
 * `shareOfPeak` counts the operations of the step as it is usually stated, attention over the whole square of positions included. Causal attention
 * leaves part of that square out; `executedShareOfPeak` counts only the products that are really computed.
 */
import type { CausalLM } from "../src/models/index.ts";
import { countMatmulFlops, lessOrEqual, range, unsqueeze } from "../src/ops/index.ts";
import { MatmulPeak } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { causalLanguageModel, type Objective } from "../src/train/objectives/index.ts";
import { StepProfiler } from "../src/train/profile/index.ts";
import { median, round, settle } from "./machine.ts";
import { comparePeers } from "./peer.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { layersOf, type StepSpec, shapes, smoke } from "./shapes.ts";
import { openStep } from "./training-step.ts";

export interface StepBenchOptions {
  /** Timed steps. */
  repeats: number;
  /** A small shape that only shows that the bench runs. */
  smoke: boolean;
  /** Where to write a profile. */
  profile?: string | undefined;
  /** Run the same step in PyTorch too, where Python has it. */
  peer?: boolean | undefined;
}

export async function benchStep(full: StepSpec, options: StepBenchOptions): Promise<Record<string, unknown>> {
  const spec = options.smoke ? smoke(full) : full;
  const checkpoint = randomCheckpoint(spec.shape, layersOf(spec), "float32");
  try {
    const measured = await measureStep(checkpoint.directory, spec, options);
    // When this process has nothing open any more: every contestant has a process of its own.
    const peer = options.peer ? await comparePeers(checkpoint.directory, spec, options.smoke ? 1 : Math.min(options.repeats, 6)) : {};
    return { ...measured, ...peer };
  } finally {
    checkpoint.remove();
  }
}

async function measureStep(directory: string, spec: StepSpec, { repeats, profile }: StepBenchOptions): Promise<Record<string, unknown>> {
  const device = cpu();
  const profiler = profile === undefined ? undefined : new StepProfiler(device, { directory: profile });
  const { model, traced, traceWith, compileSeconds, step, dispose } = await openStep(directory, spec, "f32", device);
  const executed = countMatmulFlops(traced);
  const isDecoder = shapes[spec.shape].model_type === "llama";
  const flops = isDecoder ? countMatmulFlops(traceWith(wholeSquare(model as CausalLM))) : executed;
  for (let i = 1; i <= (profiler ? 7 : 2); i++) {
    await step();
    profiler?.step({ step: i });
  }
  await profiler?.finish();
  // The kernel keeps the largest resident size, inside steps too; it counts in kB. Mapped weights are part of it.
  const peakMemoryMB = Math.round(process.resourceUsage().maxRSS / 1e3);
  const peak = await MatmulPeak.create(cpu());
  await peak.measure();
  const seconds: number[] = [];
  const shares: number[] = [];
  const peaks: number[] = [];
  // Each step stands between two measurements of the peak, so that a machine whose speed drifts is compared with itself.
  let before = await measure(peak);
  for (let i = 0; i < repeats; i++) {
    await settle();
    seconds.push(await step());
    const after = await measure(peak);
    peaks.push((before + after) / 2);
    shares.push(flops / seconds.at(-1)! / peaks.at(-1)!);
    before = after;
  }
  await peak.dispose();
  await dispose();
  return {
    shareOfPeak: round(median(shares), 3),
    bestShare: round(Math.max(...shares), 3),
    stepSeconds: round(median(seconds), 4),
    executedShareOfPeak: round((median(shares) * executed) / flops, 3),
    gflopPerStep: round(flops / 1e9, 1),
    gflopExecuted: round(executed / 1e9, 1),
    gflopsPerSecond: round(flops / median(seconds) / 1e9, 0),
    peakGflopsPerSecond: round(median(peaks) / 1e9, 0),
    ...(spec.time
      ? { tokensPerSecond: Math.round((spec.batch * spec.time) / median(seconds)) }
      : { imagesPerSecond: round(spec.batch / median(seconds), 1) }),
    trainableParameters: model.trainableParameters().reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0),
    compileSeconds: round(compileSeconds, 2),
    peakMemoryMB,
  };
}

/** The same objective with attention over every pair of positions: for counting, never run. */
function wholeSquare(model: CausalLM): Objective {
  return causalLanguageModel({
    forward: ({ ids }) => model.forward({ ids, visible: lessOrEqual(range(ids.shape[1]!), unsqueeze(range(ids.shape[1]!), 1)) }),
    logits: (hidden) => model.logits(hidden),
  });
}

async function measure(peak: MatmulPeak): Promise<number> {
  await settle();
  return peak.measure();
}
