import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import type { MemoryStorage } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { loadCausalLM } from "../models/index.ts";
import { mul } from "../ops/index.ts";
import { Device, type HostTensor, hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { LossScaler } from "./loss-scaler.ts";
import { applyWeights } from "./method.ts";
import { causalLanguageModel, type Objective } from "./objectives/index.ts";
import { adamW, oneGroup } from "./optimizers/index.ts";
import { Accumulator, type StepOptions, stepFeeds, traceStep } from "./step.ts";
import type { StepReport, TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

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

  function opened(compute: StepOptions["compute"], rematerialise = false): StepOptions {
    const model = loadCausalLM(fixture("llama-tiny"));
    applyWeights(model, [lora({ rank: 4, targets: "all-linear" })]);
    const optimizer = adamW({ learningRate: 0.01 }).create(oneGroup(model.trainableParameters()));
    return { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1, compute, rematerialise };
  }

  async function steps(compute: StepOptions["compute"], lossScale: number, { count = 6, rematerialise = false } = {}) {
    const options = opened(compute, rematerialise);
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

  test("blocks that are computed again are so in float16 too", async () => {
    const [kept, again] = [await steps("float16", 2 ** 10), await steps("float16", 2 ** 10, { rematerialise: true })];
    expect(again.products.length).toBeGreaterThan(kept.products.length);
    expect(new Set(again.products)).toEqual(new Set(["float16"]));
    for (const [i, { loss }] of again.results.entries()) expect(Math.abs(loss - kept.results[i]!.loss)).toBeLessThan(3e-3 * loss);
  });

  test("a scale that is too large is told by the gradient norm; the loss stays what it is", async () => {
    const [first] = (await steps("float16", 2 ** 127, { count: 1 })).results;
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

describe("a run in float16", () => {
  const root = mkdtempSync(join(tmpdir(), "espalier-loss-scale-"));
  afterAll(() => rmSync(root, { recursive: true }));
  const narrow = new Device({ ...device.platform, compute: "float16" });

  /** On the way back there is a factor of 1e36, which larger scales overflow at: a float16 in small. */
  function narrowPass(base: Objective): Objective {
    return {
      ...base,
      trace(inputs) {
        const out = base.trace(inputs);
        return { ...out, total: mul(mul(out.total, 1e-36), 1e36) };
      },
    };
  }

  async function run(name: string, steps: number, over: Partial<TrainOptions> = {}) {
    const model = loadCausalLM(fixture("llama-tiny"));
    const int64 = (values: number[]) => hostTensor("int64", [1, values.length], BigInt64Array.from(values, BigInt));
    const ids = [5, 9, 12, 40, 7, 81, 22, 64];
    const feeds = { ids: int64(ids), targets: int64([...ids.slice(1), -100]) };
    const reports: StepReport[] = [];
    const result = await train({
      model,
      objective: narrowPass(causalLanguageModel(model)),
      data: { batchesPerEpoch: 1, batch: () => ({ feeds, tokens: 8, examples: 1, description: "a batch" }) },
      device: narrow,
      methods: [lora({ rank: 2 })],
      optimizer: adamW({ learningRate: 0.02 }),
      steps: 12,
      pauseAt: steps,
      directory: join(root, name),
      onStep: (report) => reports.push(report),
      ...over,
    });
    const weights = model.trainableParameters().map((p) => Array.from((p.storage as MemoryStorage).data as Float32Array));
    return { reports, weights, state: JSON.parse(readFileSync(join(result.checkpoint!, "trainer.json"), "utf8")) };
  }

  test("halves its scale until gradients fit, without stopping or learning from what did not; resumed, it goes on with that scale", async () => {
    const { reports, weights, state } = await run("whole", 12);
    const overflowed = reports.filter(({ gradientNorm }) => !Number.isFinite(gradientNorm)).length;
    expect(overflowed).toBeGreaterThan(2);
    expect(overflowed).toBeLessThan(8);
    expect(state).toMatchObject({ withoutUpdate: overflowed, lossScale: { scale: 2 ** (16 - overflowed), goodSteps: 12 - overflowed } });
    for (const { loss } of reports.slice(0, overflowed)) expect(loss).toBe(reports[0]!.loss);
    expect(reports.at(-1)!.loss).toBeLessThan(0.9 * reports[0]!.loss);
    await run("parts", 3);
    const second = await run("parts", 12, { resume: true });
    expect(second.weights).toEqual(weights);
    expect(second.state).toEqual(state);
  });

  test("what no scale mends is an error, and so is a loss that is not finite", async () => {
    const broken = (factor: number): Partial<TrainOptions> => {
      const model = loadCausalLM(fixture("llama-tiny"));
      const base = causalLanguageModel(model);
      const trace: Objective["trace"] = (inputs) => {
        const out = base.trace(inputs);
        return { ...out, total: mul(mul(mul(out.total, 1e-36), 1e36), factor) };
      };
      return { model, objective: { ...base, trace } };
    };
    await expect(run("loss", 12, broken(Number.NaN))).rejects.toThrow(/Step 1: the loss became NaN/);
    await expect(run("gradients", 90, { ...broken(1e30), steps: 90 })).rejects.toThrow(/the gradient norm became/);
  });
});
