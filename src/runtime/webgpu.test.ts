/** Training through WebGPU, on Chromium's software driver where there is one: the numbers are the processor's. */
import { describe, expect, test } from "vitest";
import { device, providers } from "../../tests/ops/providers.ts";
import { lora } from "../methods/index.ts";
import { loadCausalLM } from "../models/index.ts";
import { applyWeights } from "../train/method.ts";
import { causalLanguageModel } from "../train/objectives/index.ts";
import { adamW, oneGroup } from "../train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../train/step.ts";
import { hostTensor } from "./device.ts";
import { openDevice } from "./open-device.ts";

const int64 = (rows: number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
const rows = [
  [5, 9, 12, 40, 7, 81, 22, 64],
  [3, 77, 12, 12, 50, 8, 90, 1],
];
const batch = { ids: int64(rows), targets: int64(rows.map((row) => [...row.slice(1), -100])) };
const packed = { ...batch, documentStarts: int64([[0, 0, 0, 3, 3, 3, 3, 3], Array(8).fill(0)]) };

/** Losses, gradient norms and trained values of some steps. */
async function training(provider: string, method: "lora" | "everything", feeds: typeof batch, steps: number) {
  const on = await device(provider);
  const model = loadCausalLM(new URL("../../tests/fixtures/llama-tiny", import.meta.url).pathname);
  if (method === "lora") applyWeights(model, [lora({ rank: 4, targets: "all-linear" })]);
  const parameters = model.trainableParameters();
  const optimizer = adamW({ learningRate: 0.01 }).create(oneGroup(parameters));
  const program = await on.compile(traceStep(feeds, { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1 }));
  const figures: number[] = [];
  for (let step = 1; step <= steps; step++) {
    const { total, gradientNorm } = await program.run({ ...feeds, ...stepFeeds(optimizer, { learningRate: 0.01, updates: () => step }) });
    figures.push(Number(total!.data[0]), Number(gradientNorm!.data[0]));
  }
  await program.dispose();
  return { figures, values: parameters.map((p) => Array.from(on.read(p).data as Float32Array)) };
}

describe.runIf(providers.includes("webgpu"))("webgpu", () => {
  test.each([
    ["a LoRA step", "lora", batch, 1],
    ["LoRA steps on packed rows", "lora", packed, 4],
    ["steps that train everything", "everything", batch, 4],
  ] as const)("%s: losses, norms and weights are the processor's", async (_, method, feeds, steps) => {
    const [here, there] = [await training("cpu", method, feeds, steps), await training("webgpu", method, feeds, steps)];
    for (const [i, figure] of here.figures.entries()) expect(Math.abs(there.figures[i]! - figure) / figure).toBeLessThan(1e-4);
    for (const [i, values] of here.values.entries())
      for (const [j, value] of values.entries()) expect(Math.abs(there.values[i]![j]! - value)).toBeLessThan(1e-3);
  });

  test("opens by name; 16 bits are computed, or refused with the reason", async () => {
    await (await openDevice("webgpu")).dispose();
    const narrow = await openDevice("webgpu", { compute: "float16" }).catch((error: Error) => error);
    if (narrow instanceof Error)
      expect(narrow.message).toMatch(
        /^The WebGPU provider of this machine computes no matrix products in float16: .+\. Compute in float32\.$/,
      );
    else await narrow.dispose();
    await expect(openDevice("webgpu", { compute: "bfloat16" })).rejects.toThrow(/no matrix products in bfloat16/);
  });
});
