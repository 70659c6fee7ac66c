/** Short documents in packed rows and in buckets by length: real tokens per second of a LoRA step, and what the mask of documents costs. */
import { type BatchSource, conversationBatches, packedBatches } from "../src/data/index.ts";
import { Random } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { loadCausalLM } from "../src/models/index.ts";
import type { HostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { applyWeights } from "../src/train/method.ts";
import { causalLanguageModel } from "../src/train/objectives/index.ts";
import { adamW, oneGroup } from "../src/train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../src/train/step.ts";
import { median, round, settle } from "./machine.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";

type Feeds = Readonly<Record<string, HostTensor>>;
const shape = "SmolLM2-135M, vocabulary 8192";

export async function benchPacking({ repeats, smoke }: { repeats: number; smoke: boolean }): Promise<Record<string, unknown>> {
  const [sequenceLength, places] = smoke ? [32, 64] : [256, 2048];
  const checkpoint = randomCheckpoint(shape, smoke ? 1 : 6, "float32");
  const device = cpu();
  try {
    const model = loadCausalLM(checkpoint.directory);
    applyWeights(model, [lora({ rank: 8, targets: ["q_proj", "v_proj"] })]);
    const optimizer = adamW({ learningRate: 1e-3 }).create(oneGroup(model.trainableParameters()));
    const scalars = stepFeeds(optimizer, { learningRate: 1e-3, updates: () => 1 });
    const open = async (feeds: Feeds) => {
      const program = await device.compile(traceStep(feeds, { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1 }));
      return async () => {
        await settle();
        const started = performance.now();
        await program.run({ ...feeds, ...scalars });
        return (performance.now() - started) / 1000;
      };
    };
    /** Seconds of a step on each of several batches, measured in turns. */
    const timed = async (batches: readonly Feeds[]) => {
      const steps = [];
      for (const feeds of batches) steps.push({ run: await open(feeds), seconds: [] as number[] });
      for (let i = 0; i <= repeats; i++) for (const { run, seconds } of steps) seconds.push(await run());
      return steps.map(({ seconds }) => median(seconds.slice(1)));
    };

    const examples = documents(smoke ? 40 : 2000, sequenceLength);
    const packed = packedBatches(examples, { batchSize: places / sequenceLength, sequenceLength });
    const packedFeeds = (await packed.batch(0)).feeds;
    const { ids, targets } = packedFeeds;
    const [masked, plain] = await timed([packedFeeds, { ids: ids!, targets: targets! }]);
    const packedRate = (await tokensOf(packed)) / (packed.batchesPerEpoch * masked!);
    const buckets = [sequenceLength / 4, sequenceLength / 2, sequenceLength];
    const bucketed = async (batchSize: number) => {
      const source = conversationBatches(examples, { batchSize, padId: 0, buckets });
      const byLength = new Map<number, { feeds: Feeds; count: number }>();
      for (let i = 0; i < source.batchesPerEpoch; i++) {
        const { feeds } = await source.batch(i);
        const known = byLength.get(feeds.ids!.shape[1]!);
        if (known) known.count++;
        else byLength.set(feeds.ids!.shape[1]!, { feeds, count: 1 });
      }
      const kinds = [...byLength.values()];
      const seconds = await timed(kinds.map(({ feeds }) => feeds));
      return (await tokensOf(source)) / kinds.reduce((total, { count }, i) => total + count * seconds[i]!, 0);
    };
    return {
      documents: examples.length,
      meanTokens: round(examples.reduce((n, e) => n + e.ids.length, 0) / examples.length, 1),
      padding: round(packed.padding, 3),
      stepSecondsPacked: round(masked!, 4),
      stepSecondsPlainCausal: round(plain!, 4),
      tokensPerSecondPacked: Math.round(packedRate),
      tokensPerSecondBucketed: Math.round(await bucketed(places / sequenceLength)),
      tokensPerSecondBucketedSamePlaces: Math.round(await bucketed(places / buckets[0]!)),
    };
  } finally {
    await device.dispose();
    checkpoint.remove();
  }
}

/** Lengths as instructions and answers have them: their logarithm is normal, with a median of 48 tokens in rows of 256. */
function documents(count: number, longest: number) {
  const random = new Random(11);
  return Array.from({ length: count }, (_, i) => {
    const length = Math.max(2, Math.min(longest, Math.round(((longest * 48) / 256) * Math.exp(0.7 * random.normal()))));
    const tokens = () => Array.from({ length }, () => random.integer(8192));
    return { ids: tokens(), targets: tokens(), description: `document ${i}` };
  });
}

async function tokensOf(source: BatchSource): Promise<number> {
  let tokens = 0;
  for (let i = 0; i < source.batchesPerEpoch; i++) tokens += (await source.batch(i)).tokens;
  return tokens;
}
