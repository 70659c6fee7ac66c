/**
 * Training steps as a share of the matmul peak: Llama blocks of width 576 (9 heads, 3 key/value heads, feed-forward 1536), batch 4 × 256 tokens.
 * Elementwise work, softmax, clipping and the optimizer count as lost time.
 *
 * `shareOfPeak` counts the operations of the step as it is usually stated, attention over the whole square of positions included. Causal attention
 * leaves part of that square out; `executedShareOfPeak` counts only the products that are really computed.
 */
import { Random } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { type CausalLM, loadCausalLM } from "../src/models/index.ts";
import { countMatmulFlops, lessOrEqual, range, unsqueeze } from "../src/ops/index.ts";
import { type HostTensor, hostTensor, MatmulPeak } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { applyWeights } from "../src/train/method.ts";
import { causalLanguageModel, type Objective } from "../src/train/objectives/index.ts";
import { adamW, oneGroup } from "../src/train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../src/train/step.ts";
import { median, round, settle } from "./machine.ts";
import { comparePeer } from "./peer.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";

/** Layers of a shape that write-checkpoint.ts knows. */
const layersOf = { "SmolLM2-135M": 30, "SmolLM2-135M, vocabulary 8192": 6 } as const;

export interface StepBenchOptions {
  shape: keyof typeof layersOf;
  lora: boolean;
  /** Timed steps. */
  repeats: number;
  /** A small shape that only shows that the bench runs. */
  smoke: boolean;
  profile?: string | undefined;
  /** Run the same step in PyTorch and PEFT too, where Python has them. */
  peer?: boolean | undefined;
}

export async function benchStep(options: StepBenchOptions): Promise<Record<string, unknown>> {
  const [batch, time] = options.smoke ? [2, 32] : [4, 256];
  const layers = options.smoke ? 1 : layersOf[options.shape];
  const checkpoint = randomCheckpoint(options.shape, layers, "float32");
  const device = cpu(options.profile ? { profile: options.profile } : {});
  const model = loadCausalLM(checkpoint.directory);
  if (options.lora) applyWeights(model, [lora({ rank: 8, targets: ["q_proj", "v_proj"] })]);
  const vocabulary = model.config.vocab_size;
  const parameters = model.trainableParameters();
  const optimizer = adamW({ learningRate: 1e-3 }).create(oneGroup(parameters));
  const random = new Random(2);
  const tokens = (): HostTensor =>
    hostTensor(
      "int64",
      [batch, time],
      BigInt64Array.from({ length: batch * time }, () => BigInt(random.integer(vocabulary))),
    );
  const batches = { ids: tokens(), targets: tokens() };

  const compileStarted = performance.now();
  const traced = traceStep(batches, { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1 });
  const executed = countMatmulFlops(traced);
  const flops = countMatmulFlops(traceStep(batches, { objective: wholeSquare(model), optimizer, maxGradientNorm: 1 }));
  const program = await device.compile(traced);
  const compileSeconds = (performance.now() - compileStarted) / 1000;
  const step = (n: number) => program.run({ ...batches, ...stepFeeds(optimizer, { learningRate: 1e-3, updates: () => n }) });
  await step(1);
  await step(2);
  // The kernel keeps the largest resident size, inside steps too; it counts in kB. Mapped weights are part of it.
  const peakMemoryMB = Math.round(process.resourceUsage().maxRSS / 1e3);
  const peak = await MatmulPeak.create(cpu());
  await peak.measure();
  let steps = 2;
  const timed = async () => {
    const started = performance.now();
    await step(++steps);
    return (performance.now() - started) / 1000;
  };
  const seconds: number[] = [];
  const shares: number[] = [];
  const peaks: number[] = [];
  // Each step stands between two measurements of the peak, so that a machine whose speed drifts is compared with itself.
  let before = await measure(peak);
  for (let i = 0; i < options.repeats; i++) {
    await settle();
    seconds.push(await timed());
    const after = await measure(peak);
    peaks.push((before + after) / 2);
    shares.push(flops / seconds.at(-1)! / peaks.at(-1)!);
    before = after;
  }
  await peak.dispose();
  const peer = options.peer
    ? await comparePeer({ layers, vocabulary, batch, time }, { step: timed, repeats: Math.min(options.repeats, 6), peakMemoryMB })
    : {};
  await device.dispose();
  checkpoint.remove();
  return {
    shareOfPeak: round(median(shares), 3),
    bestShare: round(Math.max(...shares), 3),
    stepSeconds: round(median(seconds), 4),
    executedShareOfPeak: round((median(shares) * executed) / flops, 3),
    gflopPerStep: round(flops / 1e9, 1),
    gflopExecuted: round(executed / 1e9, 1),
    gflopsPerSecond: round(flops / median(seconds) / 1e9, 0),
    peakGflopsPerSecond: round(median(peaks) / 1e9, 0),
    tokensPerSecond: Math.round((batch * time) / median(seconds)),
    trainableParameters: parameters.reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0),
    compileSeconds: round(compileSeconds, 2),
    peakMemoryMB,
    ...peer,
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
