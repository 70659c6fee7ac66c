/**
 * Training steps as a share of the matmul peak: Llama blocks of width 576 (9 heads, 3 key/value heads, feed-forward 1536), batch 4 × 256 tokens.
 * Elementwise work, softmax, clipping and the optimizer count as lost time.
 *
 * `shareOfPeak` counts the operations of the step as it is usually stated, attention over the whole square of positions included. Causal attention
 * leaves part of that square out; `executedShareOfPeak` counts only the products that are really computed.
 */
import { Random } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/llama.ts";
import { countMatmulFlops, lessOrEqual, range, unsqueeze } from "../src/ops/index.ts";
import { type HostTensor, hostTensor, MatmulPeak } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { applyWeights } from "../src/train/method.ts";
import { causalLanguageModel, type Objective } from "../src/train/objectives.ts";
import { adamW, oneGroup } from "../src/train/optimizers.ts";
import { stepFeeds, traceStep } from "../src/train/step.ts";
import { median, round } from "./machine.ts";

/** Layers and vocabulary. */
export const stepShapes = {
  "6 layers": { layers: 6, vocabulary: 8192 },
  "SmolLM2-135M": { layers: 30, vocabulary: 49152 },
} as const;

export interface StepBenchOptions {
  shape: keyof typeof stepShapes;
  lora: boolean;
  /** Timed steps. */
  repeats: number;
  /** A small shape that only shows that the bench runs. */
  smoke: boolean;
  profile?: string;
}

export async function benchStep(options: StepBenchOptions): Promise<Record<string, unknown>> {
  const [batch, time] = options.smoke ? [2, 32] : [4, 256];
  const { layers, vocabulary } = stepShapes[options.shape];
  const config = llamaConfigSchema.parse({
    vocab_size: options.smoke ? 512 : vocabulary,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: options.smoke ? 1 : layers,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    tie_word_embeddings: true,
    max_position_embeddings: 512,
  });
  const device = cpu(options.profile ? { profile: options.profile } : {});
  const model = new LlamaForCausalLM(config, 1);
  if (options.lora) applyWeights(model, [lora({ rank: 8, targets: ["q_proj", "v_proj"] })]);
  const parameters = model.trainableParameters();
  const optimizer = adamW({ learningRate: 1e-3 }).create(oneGroup(parameters));
  const random = new Random(2);
  const tokens = (): HostTensor =>
    hostTensor(
      "int64",
      [batch, time],
      BigInt64Array.from({ length: batch * time }, () => BigInt(random.integer(config.vocab_size))),
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
  const peak = await MatmulPeak.create(cpu());
  await peak.measure();
  const seconds: number[] = [];
  const shares: number[] = [];
  const peaks: number[] = [];
  // Each step stands between two measurements of the peak, so that a machine whose speed drifts is compared with itself.
  let before = await measure(peak);
  for (let i = 0; i < options.repeats; i++) {
    await settle();
    const started = performance.now();
    await step(3 + i);
    seconds.push((performance.now() - started) / 1000);
    const after = await measure(peak);
    peaks.push((before + after) / 2);
    shares.push(flops / seconds.at(-1)! / peaks.at(-1)!);
    before = after;
  }
  await program.dispose();
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
    // The kernel keeps the largest resident size, inside steps too; it counts in kB.
    peakMemoryMB: Math.round(process.resourceUsage().maxRSS / 1e3),
  };
}

/** The same objective with attention over every pair of positions: for counting, never run. */
function wholeSquare(model: LlamaForCausalLM): Objective {
  return causalLanguageModel({
    forward: ({ ids }) => model.forward({ ids, visible: lessOrEqual(range(ids.shape[1]!), unsqueeze(range(ids.shape[1]!), 1)) }),
    logits: (hidden) => model.logits(hidden),
  });
}

/** A session's threads spin for a while after a run and would slow another session's: long enough for them to fall asleep. */
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 150));

async function measure(peak: MatmulPeak): Promise<number> {
  await settle();
  return peak.measure();
}
