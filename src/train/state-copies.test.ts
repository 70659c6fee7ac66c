import { expect, test } from "vitest";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/families/llama.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { causalLanguageModel } from "./objectives/index.ts";
import { adamW } from "./optimizers/index.ts";
import { train } from "./trainer.ts";

const config = llamaConfigSchema.parse({
  vocab_size: 60,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 16,
});

test.each([1, 2])("no operator of a step only copies state (batches per step: %i)", async (accumulate) => {
  const device = cpu({ threads: 1 });
  device.startProfile();
  const ids = hostTensor(
    "int64",
    [2, 8],
    BigInt64Array.from({ length: 16 }, (_, i) => BigInt(i)),
  );
  const model = new LlamaForCausalLM(config);
  await train({
    model,
    objective: causalLanguageModel(model),
    data: {
      batchesPerEpoch: 1,
      batch: async () => ({ feeds: { ids, targets: ids }, tokens: 16, examples: 2, description: "numbers" }),
    },
    device,
    optimizer: adamW({ learningRate: 1e-3 }),
    accumulate,
    steps: 1,
  });
  const ran = (await device.endProfile()).flatMap(({ operators }) => operators);
  await device.dispose();
  expect(ran.length).toBeGreaterThan(100);
  // An Identity that writes an output copies; one within the graph is removed by ONNX Runtime.
  const copies = ran.filter(({ operator, outputs }) => operator === "Identity" && (outputs[0] ?? []).reduce((a, b) => a * b, 1) > 1);
  expect(copies.map(({ name }) => name)).toEqual([]);
});
