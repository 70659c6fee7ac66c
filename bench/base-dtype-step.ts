/** A LoRA step on a base kept in some dtype; as a program, what the bench base-dtype runs in processes of their own. */
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { saveCheckpoint } from "../src/checkpoints/index.ts";
import { elementCount, Random, type Storage, type Traced } from "../src/graph/index.ts";
import { lora } from "../src/methods/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/families/llama.ts";
import { type BaseDtype, loadCausalLM, setBaseDtype } from "../src/models/index.ts";
import { hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { estimateStep } from "../src/train/estimate.ts";
import { applyWeights } from "../src/train/method.ts";
import { causalLanguageModel } from "../src/train/objectives/index.ts";
import { adamW, oneGroup } from "../src/train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../src/train/step.ts";
import { round } from "./machine.ts";

/** Runs one step. */
export type Step = () => Promise<unknown>;

export async function openStep(directory: string, dtype: BaseDtype, [batch, time]: readonly [number, number]) {
  const model = loadCausalLM(directory);
  setBaseDtype(model, dtype);
  applyWeights(model, [lora({ rank: 8, targets: ["q_proj", "v_proj"] })]);
  const optimizer = adamW({ learningRate: 1e-3 }).create(oneGroup(model.trainableParameters()));
  const random = new Random(2);
  const tokens = () =>
    hostTensor(
      "int64",
      [batch, time],
      BigInt64Array.from({ length: batch * time }, () => BigInt(random.integer(model.config.vocab_size))),
    );
  const feeds = { ids: tokens(), targets: tokens() };
  const traced = traceStep(feeds, { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1 });
  const device = cpu();
  const program = await device.compile(traced);
  let updates = 0;
  const step: Step = () => program.run({ ...feeds, ...stepFeeds(optimizer, { learningRate: 1e-3, updates: () => ++updates }) });
  return { step, traced, dispose: () => device.dispose() };
}

/** Bytes of the frozen values that a step reads. */
export const weightBytes = (traced: Traced): number => estimateStep(traced).frozenBytes;

/** A checkpoint of random weights. */
function write(directory: string, smoke: boolean): void {
  const config = llamaConfigSchema.parse({
    vocab_size: smoke ? 512 : 49152,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: smoke ? 2 : 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    tie_word_embeddings: true,
    max_position_embeddings: 512,
  });
  const random = new Random(0);
  const noise = Float32Array.from({ length: 1 << 20 }, () => random.normal() * 0.02);
  const tensors = new Map<string, Storage>();
  for (const [name, { shape }] of new LlamaForCausalLM(config).namedParameters()) {
    const data = shape.length === 1 ? new Float32Array(shape[0]!).fill(1) : new Float32Array(elementCount(shape));
    if (shape.length > 1) for (let i = 0; i < data.length; i += noise.length) data.set(noise.subarray(0, data.length - i), i);
    tensors.set(name, { kind: "memory", dtype: "float32", shape, data });
  }
  saveCheckpoint(directory, { config, tensors });
}

/** Memory of a process that does nothing else, after two steps. */
async function measure(directory: string, dtype: BaseDtype, shape: readonly [number, number]): Promise<Record<string, number>> {
  const { step, traced, dispose } = await openStep(directory, dtype, shape);
  await step();
  await step();
  global.gc?.();
  const status = readFileSync("/proc/self/status", "utf8");
  const megabytes = (key: string) => Math.round((Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1]) * 1024) / 1e6);
  const figures = {
    weightsMB: round(weightBytes(traced) / 1e6, 1),
    residentMB: megabytes("VmRSS"),
    ofWhichMappedMB: megabytes("RssFile"),
    ofWhichAnonymousMB: megabytes("RssAnon"),
    peakMB: megabytes("VmHWM"),
  };
  await dispose();
  return figures;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [task, directory, ...rest] = process.argv.slice(2) as [string, string, ...string[]];
  if (task === "write") write(directory, rest[0] === "smoke");
  else console.log(JSON.stringify(await measure(directory, rest[0] as BaseDtype, [Number(rest[1]), Number(rest[2])])));
}
