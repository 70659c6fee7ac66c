/**
 * Writes the newest checkpoint of a run as models/sapling: bfloat16 weights, config, and the figures of the whole held-out text measured with
 * exactly these rounded weights (recipes/sapling/result.json).
 * `npx tsx recipes/sapling/export.ts [--directory runs/sapling]`
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fromFloat32, openSafetensors, readStorage, saveCheckpoint, toFloat32, writeJson } from "../../src/checkpoints/index.ts";
import { EspalierError, elementCount, type MemoryStorage, type Storage } from "../../src/graph/index.ts";
import { LlamaForCausalLM } from "../../src/models/families/llama.ts";
import { floats } from "../../src/nn/index.ts";
import { cpu } from "../../src/runtime/node.ts";
import { Evaluator } from "../../src/train/evaluate.ts";
import { causalLanguageModel } from "../../src/train/objectives/index.ts";
import { RunDirectory } from "../../src/train/run-directory.ts";
import { saplingConfig, saplingTraining } from "./config.ts";
import { modelCard, type SaplingResult } from "./model-card.ts";
import { readPack, windows } from "./packs.ts";

const { values } = parseArgs({
  options: { directory: { type: "string", default: "runs/sapling" }, output: { type: "string", default: "models/sapling" } },
});
const latest = new RunDirectory(values.directory).latestCheckpoint();
if (!latest) throw new EspalierError("no-checkpoint", `${values.directory} holds no checkpoint: run recipes/sapling/pretrain.ts first.`);

const model = new LlamaForCausalLM(saplingConfig);
const { tensors } = openSafetensors(join(latest.path, "state.safetensors"));
const rounded = new Map<string, Storage>();
for (const [name, parameter] of model.namedParameters()) {
  const bits = fromFloat32("bfloat16", readStorage(tensors.get(name)!) as Float32Array);
  rounded.set(name, { kind: "memory", dtype: "bfloat16", shape: parameter.shape, data: bits } satisfies MemoryStorage);
  parameter.storage = floats(parameter.shape, toFloat32("bfloat16", bits));
}
saveCheckpoint(values.output, { config: { ...saplingConfig, torch_dtype: "bfloat16" }, tensors: rounded });

const baselines = JSON.parse(readFileSync("recipes/sapling/baselines.json", "utf8")) as {
  heldOutBytes: number;
  gzip9: number;
  kneserNey5Gram: number;
};
const held = readPack(".cache/sapling/heldout.bin");
const evaluator = new Evaluator(cpu(), causalLanguageModel(model.freeze()));
const bitsPerByte = async (length: number): Promise<number> => {
  const rows = 4096 / length;
  const starts = Array.from({ length: Math.floor((held.length - 1) / length) }, (_, i) => i * length);
  const batches = Array.from({ length: Math.ceil(starts.length / rows) }, (_, i) => starts.slice(i * rows, (i + 1) * rows));
  const { loss } = await evaluator.run({ batchesPerEpoch: batches.length, batch: (i) => windows(held, batches[i]!, length) });
  return (loss * held.length) / Math.LN2 / baselines.heldOutBytes;
};
const metrics = readFileSync(join(values.directory, "metrics.jsonl"), "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line) as { step: number; tokens?: number; tokensPerSecond?: number })
  .filter((m) => m.tokensPerSecond !== undefined && m.step <= latest.step);
const trainingTokens = metrics.at(-1)!.tokens!;
const result: SaplingResult = {
  parameters: model.parameters().reduce((n, p) => n + elementCount(p.shape), 0),
  steps: latest.step,
  trainingTokens,
  trainingMinutes: Number((metrics.reduce((s, m) => s + trainingTokens / metrics.length / m.tokensPerSecond!, 0) / 60).toFixed(1)),
  seed: saplingTraining.seed,
  heldOutBytes: baselines.heldOutBytes,
  bitsPerByte: { context256: Number((await bitsPerByte(256)).toFixed(4)), context512: Number((await bitsPerByte(512)).toFixed(4)) },
  baselines: { gzip9: Number(baselines.gzip9.toFixed(4)), kneserNey5GramBytes: Number(baselines.kneserNey5Gram.toFixed(4)) },
};
writeJson("recipes/sapling/result.json", result);
writeFileSync(join(values.output, "README.md"), modelCard(result));
console.log(JSON.stringify(result, null, 2));
process.exit(0);
