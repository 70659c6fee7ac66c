import { readFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { lora } from "../methods/index.ts";
import { loadCausalLM } from "../models/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { LossScaler } from "./loss-scaler.ts";
import { applyWeights } from "./method.ts";
import { causalLanguageModel } from "./objectives/index.ts";
import { adamW, oneGroup } from "./optimizers/index.ts";
import { Accumulator, type StepOptions, stepFeeds, traceStep } from "./step.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());
const fixture = (name: string) => new URL(`../../tests/fixtures/${name}`, import.meta.url).pathname;

describe("LossScaler", () => {
  const { growthInterval, overflows, states } = JSON.parse(readFileSync(fixture("loss-scale.json"), "utf8"));

  test("has torch.amp.GradScaler's state after every step of a series with overflows", () => {
    const scaler = new LossScaler({ growthInterval });
    for (const [i, overflow] of overflows.entries()) {
      scaler.update(overflow === 0);
      expect(scaler.state()).toEqual(states[i]);
    }
  });

  test("goes on from a checkpoint, and stays within float32", () => {
    const scaler = new LossScaler({ growthInterval });
    scaler.restore(states[8]);
    for (let i = 9; i < overflows.length; i++) scaler.update(overflows[i] === 0);
    expect(scaler.state()).toEqual(states.at(-1));
    for (let i = 0; i < 200; i++) scaler.update(false);
    expect(scaler.scale).toBe(2 ** -24);
    const growing = new LossScaler({ growthInterval: 1 });
    for (let i = 0; i < 200; i++) growing.update(true);
    expect(growing.scale).toBe(2 ** 64);
  });

  test("refuses what is no scale", () => {
    expect(refusal(() => new LossScaler({ initial: 1000 })).message).toMatch(/power of two .* not by 1000/);
    expect(refusal(() => new LossScaler({ growthInterval: 0 })).message).toMatch(/not 0/);
    expect(refusal(() => new LossScaler().restore({ scale: Number.NaN, goodSteps: 1 })).code).toBe("checkpoint-mismatch");
  });
});

describe("a step with products in float16", () => {
  const ids = [5, 9, 12, 40, 7, 81, 22, 64];
  const int64 = (values: number[]) => hostTensor("int64", [1, values.length], BigInt64Array.from(values, BigInt));
  const batch = { ids: int64(ids), targets: int64([...ids.slice(1), -100]) };

  function opened(compute: StepOptions["compute"]): StepOptions {
    const model = loadCausalLM(fixture("llama-tiny"));
    applyWeights(model, [lora({ rank: 4, targets: "all-linear" })]);
    const optimizer = adamW({ learningRate: 0.01 }).create(oneGroup(model.trainableParameters()));
    return { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1, compute };
  }

  async function steps(compute: StepOptions["compute"], lossScale: number, count = 6) {
    const options = opened(compute);
    const traced = traceStep(batch, options);
    const program = await device.compile(traced);
    const results: { loss: number; norm: number }[] = [];
    for (let step = 1; step <= count; step++) {
      const scalars = stepFeeds(options.optimizer, { learningRate: 0.01, updates: () => step, lossScale });
      const { total, weight, gradientNorm } = await program.run({ ...batch, ...scalars });
      results.push({ loss: Number(total!.data[0]) / Number(weight!.data[0]), norm: Number(gradientNorm!.data[0]) });
    }
    await program.dispose();
    return { results, products: traced.graph.nodes.filter((n) => n.op.name === "MatMul").map((n) => n.outputs[0]!.dtype) };
  }

  test("learns what the step in float32 learns, to the precision of float16, whatever the scale", async () => {
    const exact = (await steps("float32", 1)).results;
    for (const scale of [1, 2 ** 16]) {
      const { results, products } = await steps("float16", scale);
      expect(new Set(products)).toEqual(new Set(["float16"]));
      for (const [i, { loss, norm }] of results.entries()) {
        expect(Math.abs(loss - exact[i]!.loss)).toBeLessThan(3e-3 * exact[i]!.loss);
        expect(Math.abs(norm - exact[i]!.norm)).toBeLessThan(2e-2 * exact[i]!.norm);
      }
      expect(results[0]!.loss).not.toBe(exact[0]!.loss);
    }
  });

  test("a scale that is too large is told by the gradient norm; the loss stays what it is", async () => {
    const [first] = (await steps("float16", 2 ** 127, 1)).results;
    expect(Number.isFinite(first!.loss)).toBe(true);
    expect(Number.isFinite(first!.norm)).toBe(false);
  });

  test("accumulated gradients are those without a scale", async () => {
    const sums = async (lossScale: number) => {
      const options = opened("float16");
      const accumulator = new Accumulator(options);
      const [add, update] = [await device.compile(accumulator.traceBatch(batch)), await device.compile(accumulator.traceUpdate())];
      const feeds: Record<string, HostTensor> = stepFeeds(options.optimizer, { learningRate: 0.01, updates: () => 1, lossScale });
      for (let i = 0; i < 2; i++) await add.run({ ...batch, ...feeds });
      return Number((await update.run(feeds)).gradientNorm!.data[0]);
    };
    const [plain, scaled] = [await sums(1), await sums(2 ** 10)];
    expect(Math.abs(plain - scaled)).toBeLessThan(1e-2 * plain);
    expect(plain).toBeGreaterThan(0);
  });
});
