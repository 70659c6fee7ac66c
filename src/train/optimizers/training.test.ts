import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { config, options, weights } from "../../../tests/train/counting.ts";
import { openSafetensors } from "../../checkpoints/index.ts";
import { LlamaForCausalLM } from "../../models/families/llama.ts";
import { causalLanguageModel } from "../objectives/index.ts";
import { train } from "../trainer.ts";
import { optimizerByName, optimizerNames } from "./index.ts";

const root = mkdtempSync(join(tmpdir(), "espalier-optimizers-"));
afterAll(() => rmSync(root, { recursive: true }));

const rates: Record<string, number> = { adamw: 1e-2, adafactor: 2e-2, lion: 3e-3, muon: 1e-2, sgd: 0.5 };

describe.each(optimizerNames)("%s", (name) => {
  const optimizer = () => optimizerByName(name, { learningRate: rates[name], ...(name === "sgd" && { momentum: 0.9 }) });

  test("learns to count", async () => {
    const { lastLoss } = await train(options({ steps: 80, optimizer: optimizer() }));
    expect(lastLoss).toBeLessThan(1); // log 32 = 3.47 at the beginning
  });

  test("goes on from a checkpoint as if it had never stopped, batches accumulated or not", async () => {
    for (const accumulate of [1, 2]) {
      const common = { optimizer: optimizer(), accumulate, average: { every: 2 } };
      const whole = options({ ...common, steps: 6 });
      await train(whole);
      const directory = join(root, `${name}-${accumulate}`);
      await train(options({ ...common, steps: 3, directory }));
      const resumed = options({ ...common, steps: 6, directory, resume: true });
      await train(resumed);
      expect(weights(resumed.model)).toEqual(weights(whole.model));
    }
  });
});

test("state in 8 bits is in checkpoints as it is", async () => {
  const made = (overrides: object) => {
    const model = new LlamaForCausalLM({ ...config, vocab_size: 512 }, 3); // embeddings and head have 8192 elements each
    const optimizer = optimizerByName("adamw", { learningRate: 1e-2, stateDtype: "int8" });
    return options({ model, objective: causalLanguageModel(model), optimizer, ...overrides });
  };
  const whole = made({ steps: 6 });
  await train(whole);
  const directory = join(root, "coded");
  await train(made({ steps: 3, directory }));
  const { tensors } = openSafetensors(join(directory, "checkpoints", "step-3", "state.safetensors"));
  expect(tensors.get("lm_head.weight.first_moment")).toMatchObject({ dtype: "uint8", shape: [32, 256] });
  expect(tensors.get("lm_head.weight.first_moment.scale")).toMatchObject({ dtype: "float32", shape: [32, 1] });
  const resumed = made({ steps: 6, directory, resume: true });
  await train(resumed);
  expect(weights(resumed.model)).toEqual(weights(whole.model));
});
