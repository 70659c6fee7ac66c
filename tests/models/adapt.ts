import { expect } from "vitest";
import { lora } from "../../src/methods/index.ts";
import type { Module } from "../../src/nn/index.ts";
import type { HostTensor } from "../../src/runtime/index.ts";
import { applyWeights } from "../../src/train/method.ts";
import type { Objective } from "../../src/train/objectives/index.ts";
import { adamW, oneGroup } from "../../src/train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../../src/train/step.ts";
import { device } from "./reference.ts";

/** The losses of a few steps in which only low-rank adapters on `targets` are trained, on one batch. */
export async function lossesWithLora(
  model: Module,
  targets: readonly string[] | "all-linear",
  objective: Objective,
  batch: Record<string, HostTensor>,
  learningRate = 1e-2,
): Promise<number[]> {
  applyWeights(model, [lora({ rank: 4, targets: typeof targets === "string" ? targets : [...targets], modulesToSave: [] })]);
  const parameters = model.trainableParameters();
  expect(parameters.every(({ name }) => /\.lora_[AB]\.weight$/.test(name))).toBe(true);
  const optimizer = adamW({ learningRate }).create(oneGroup(parameters));
  const program = await device.compile(traceStep(batch, { objective, optimizer }));
  const losses: number[] = [];
  for (let step = 1; step <= 6; step++) {
    const { total, weight } = await program.run({ ...batch, ...stepFeeds(optimizer, { learningRate, updates: () => step }) });
    losses.push(Number(total!.data[0]) / Number(weight!.data[0]));
  }
  await program.dispose();
  return losses;
}

/** Every step's loss is below the one before, and adapters were the only thing that changed. */
export function expectFalling(losses: readonly number[]): void {
  for (const [i, loss] of losses.entries()) if (i > 0) expect(loss).toBeLessThan(losses[i - 1]!);
}
