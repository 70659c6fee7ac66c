import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ImmediateBatchSource } from "../../src/data/index.ts";
import { Random } from "../../src/graph/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../../src/models/families/llama.ts";
import { hostTensor } from "../../src/runtime/index.ts";
import { cpu } from "../../src/runtime/node.ts";
import { causalLanguageModel } from "../../src/train/objectives/index.ts";
import { adamW } from "../../src/train/optimizers/index.ts";
import type { TrainOptions } from "../../src/train/train-options.ts";

export const config = llamaConfigSchema.parse({
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 32,
});

/** A language that a model can learn: every token is the one before plus three. */
export function counting(batchSize: number): ImmediateBatchSource {
  return {
    batchesPerEpoch: 50,
    batch(step) {
      const random = new Random(9, step);
      const starts = Array.from({ length: batchSize }, () => random.integer(32));
      const at = (offset: number) =>
        BigInt64Array.from({ length: batchSize * 8 }, (_, i) => BigInt((starts[Math.floor(i / 8)]! + 3 * ((i % 8) + offset)) % 32));
      const shape = [batchSize, 8];
      return {
        feeds: { ids: hostTensor("int64", shape, at(0)), targets: hostTensor("int64", shape, at(1)) },
        tokens: batchSize * 8,
        examples: batchSize,
        description: `batch ${step}`,
      };
    },
  };
}

export function options(overrides: Partial<TrainOptions> = {}): TrainOptions & { model: LlamaForCausalLM } {
  const model = new LlamaForCausalLM(config, 3);
  return {
    model,
    objective: causalLanguageModel(model),
    data: counting(4),
    device: cpu({ threads: 1 }),
    optimizer: adamW({ learningRate: 1e-2 }),
    steps: 12,
    seed: 5,
    ...overrides,
  } as TrainOptions & { model: LlamaForCausalLM };
}

export const weights = (model: LlamaForCausalLM) => model.parameters().map((p) => Array.from((p.storage as { data: Float32Array }).data));
export const logged = (run: string) =>
  readFileSync(join(run, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss: number; gradientNorm: number });
