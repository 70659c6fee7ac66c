import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { config, counting, logged, options, weights } from "../../tests/train/counting.ts";
import type { BatchSource, ImmediateBatchSource } from "../data/index.ts";
import type { Tensor } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { LlamaForCausalLM } from "../models/families/llama.ts";
import { constantFill, Module, Parameter } from "../nn/index.ts";
import { add, fill, mul, sub, sum } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { Evaluator } from "./evaluate.ts";
import { applyWeights } from "./method.ts";
import { causalLanguageModel } from "./objectives/index.ts";
import { adamW } from "./optimizers/index.ts";
import { RunDirectory } from "./run-directory.ts";
import { schedule } from "./schedules.ts";
import type { TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-test-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("training", () => {
  test("learns, and the evaluator sees the trained weights", async () => {
    const o = options({ steps: 120, schedule: schedule("cosine", { warmup: 10 }) });
    const evaluator = new Evaluator(o.device, o.objective);
    const before = await evaluator.run({ ...counting(4), batchesPerEpoch: 5 });
    const result = await train(o);
    const after = await evaluator.run({ ...counting(4), batchesPerEpoch: 5 });
    expect(before.loss).toBeGreaterThan(3.2); // ln 32 = 3.47
    expect(after.loss).toBeLessThan(0.5);
    expect(result).toMatchObject({ steps: 120, interrupted: false, tokens: 120 * 32 });
  });

  test("names the parameters of a model that was put together by hand", async () => {
    class Line extends Module {
      readonly slope = new Parameter([1], () => constantFill(0)([1]));
      readonly offset = new Parameter([1], () => constantFill(0)([1]));
      forward(x: Tensor): Tensor {
        return add(mul(x, this.slope.value), this.offset.value);
      }
    }
    const model = new Line();
    const points = { x: hostTensor("float32", [3], Float32Array.of(-1, 0, 1)), y: hostTensor("float32", [3], Float32Array.of(-1, 1, 3)) };
    await train({
      ...options({ steps: 300, optimizer: adamW({ learningRate: 0.05 }) }),
      model,
      objective: {
        name: "line",
        trace({ x, y }) {
          const error = sub(model.forward(x!), y!);
          return { total: sum(mul(error, error)), weight: fill([], 3) };
        },
      },
      data: { batchesPerEpoch: 1, batch: () => ({ feeds: points, tokens: 3, examples: 3, description: "points" }) },
    });
    expect([...model.namedParameters()].map(([path, { name }]) => [path, name])).toEqual([
      ["slope", "slope"],
      ["offset", "offset"],
    ]);
    const [slope, offset] = model.parameters().map((p) => (p.storage as { data: Float32Array }).data[0]);
    expect(slope).toBeCloseTo(2, 2);
    expect(offset).toBeCloseTo(1, 2);
  });

  test("a run that was stopped and resumed equals one that was not, bit for bit", async () => {
    const whole = options({ directory: join(directory, "whole") });
    await train(whole);

    const controller = new AbortController();
    const stopped = await train(
      options({ directory: join(directory, "parts"), signal: controller.signal, onStep: ({ step }) => step === 5 && controller.abort() }),
    );
    expect(stopped).toMatchObject({ steps: 5, interrupted: true });
    const resumed = options({ directory: join(directory, "parts"), resume: true });
    await train(resumed);

    expect(weights(resumed.model)).toEqual(weights(whole.model));
    const strip = (run: string) => logged(join(directory, run)).map(({ step, loss, gradientNorm }) => ({ step, loss, gradientNorm }));
    expect(strip("parts")).toEqual(strip("whole"));
  });

  test("the same with dropout: its random numbers are a function of the step", async () => {
    const adapted = (overrides: Partial<TrainOptions>) => {
      const o = options(overrides);
      applyWeights(o.model, [lora({ rank: 4, dropout: 0.3, targets: "all-linear" })]);
      return o;
    };
    const whole = adapted({});
    await train(whole);
    const other = adapted({ seed: 6 });
    await train(other);
    const controller = new AbortController();
    await train(adapted({ directory, signal: controller.signal, onStep: ({ step }) => step === 7 && controller.abort() }));
    const resumed = adapted({ directory, resume: true });
    await train(resumed);
    const trained = (o: { model: LlamaForCausalLM }) =>
      o.model.trainableParameters().map((p) => Array.from((p.storage as { data: Float32Array }).data));
    expect(trained(resumed)).toEqual(trained(whole));
    expect(trained(other)).not.toEqual(trained(whole));
  });

  test("accumulating four batches equals one large batch", async () => {
    const large: ImmediateBatchSource = counting(8);
    // The same rows, two at a time.
    const parts: BatchSource = {
      batchesPerEpoch: 200,
      batch(step) {
        const whole = large.batch(Math.floor(step / 4));
        const rows = (name: string) =>
          hostTensor("int64", [2, 8], (whole.feeds[name]!.data as BigInt64Array).slice((step % 4) * 16, (step % 4) * 16 + 16));
        return { feeds: { ids: rows("ids"), targets: rows("targets") }, tokens: 16, examples: 2, description: "" };
      },
    };
    const a = options({ data: large, steps: 6 });
    const b = options({ data: parts, accumulate: 4, steps: 6 });
    await train(a);
    await train(b);
    const [wa, wb] = [weights(a.model).flat(), weights(b.model).flat()];
    expect(Math.max(...wa.map((v, i) => Math.abs(v - wb[i]!)))).toBeLessThan(2e-5);
  });

  test.each([1, 2])("a batch without targets leaves the weights alone (%d batches per step)", async (accumulate) => {
    const data = counting(4);
    const silent: BatchSource = {
      ...data,
      batch(step) {
        const { feeds, ...batch } = data.batch(step);
        return { ...batch, feeds: { ...feeds, targets: hostTensor("int64", [4, 8], new BigInt64Array(32).fill(-100n)) } };
      },
    };
    const o = options({ data: silent, accumulate, steps: 2 });
    const before = o.model.parameters().map((p) => Array.from(o.device.read(p).data as Float32Array));
    const result = await train(o);
    expect(result.lastLoss).toBe(0);
    expect(weights(o.model)).toEqual(before);
  });

  test("clipping bounds the update, and the norm that is reported is the one before", async () => {
    const o = options({ steps: 1, directory, maxGradientNorm: 0.01 });
    await train(o);
    expect(logged(directory)[0]!.gradientNorm).toBeGreaterThan(0.1);
  });

  test("only unfrozen parameters change, and an adapter starts as the base model", async () => {
    const o = options({ steps: 3 });
    const before = new LlamaForCausalLM(config, 3);
    applyWeights(o.model, [lora({ rank: 2, targets: ["q_proj"] })]);
    const base = await new Evaluator(o.device, causalLanguageModel(before)).run({ ...counting(4), batchesPerEpoch: 2 });
    const adapted = await new Evaluator(o.device, o.objective).run({ ...counting(4), batchesPerEpoch: 2 });
    expect(adapted.loss).toBeCloseTo(base.loss, 6);
    await train(o);
    expect(o.model.trainableParameters().map((p) => p.name)).toEqual(
      [0, 1].flatMap((l) => ["A", "B"].map((m) => `model.layers.${l}.self_attn.q_proj.lora_${m}.weight`)),
    );
    expect(Array.from(o.device.read(o.model.model.norm.weight).data as Float32Array)).toEqual(Array(16).fill(1));
  });
});

describe("figures", () => {
  test("compilation is no part of the speed, and the peak of memory is that of the whole process", async () => {
    const o = options({ steps: 3 });
    const compile = o.device.compile.bind(o.device);
    o.device.compile = async (traced) => {
      await setTimeout(400);
      return compile(traced);
    };
    const speeds: number[] = [];
    let memory = 0;
    const result = await train({
      ...o,
      onStep(report) {
        speeds.push(report.tokensPerSecond);
        memory = Math.max(memory, report.memory);
      },
    });
    // 32 tokens per batch: 80 per second if the compilation counted.
    expect(Math.min(...speeds, result.tokensPerSecond)).toBeGreaterThan(80);
    expect(result.peakMemory).toBeGreaterThanOrEqual(memory);
    expect(result.seconds).toBeGreaterThan(0.4);
  });

  test("evaluations before, during and after training are logged, each once", async () => {
    const evaluate = async (step: number) => ({ accuracy: step / 10 });
    const o = { steps: 5, directory, evaluateEvery: 2, evaluate, baseline: { accuracy: 0.5 } };
    await train(options(o));
    await train(options({ ...o, resume: true }));
    const run = new RunDirectory(directory);
    run.logEvaluation(5, { accuracy: 0.5 });
    const accuracies = (logged(directory) as { step: number; "eval.accuracy"?: number }[]).filter((m) => "eval.accuracy" in m);
    expect(accuracies.map((m) => [m.step, m["eval.accuracy"]])).toEqual([
      [0, 0.5],
      [2, 0.2],
      [4, 0.4],
      [5, 0.5],
    ]);
  });
});
