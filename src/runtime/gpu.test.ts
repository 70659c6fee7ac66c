/** Training through WebGPU, on Chromium's software driver where there is one, and with what CUDA is given: the numbers are the processor's. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { device, providers } from "../../tests/ops/providers.ts";
import { assign, type MemoryStorage, read, trace, Variable } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { loadCausalLM } from "../models/index.ts";
import { floats } from "../nn/index.ts";
import { add, type ComputeDtype, mul } from "../ops/index.ts";
import { Evaluator } from "../train/evaluate.ts";
import { applyWeights } from "../train/method.ts";
import { causalLanguageModel } from "../train/objectives/index.ts";
import { adamW, oneGroup } from "../train/optimizers/index.ts";
import { stepFeeds, traceStep } from "../train/step.ts";
import { train } from "../train/trainer.ts";
import { Device, hostTensor } from "./device.ts";
import { webgpu } from "./node.ts";
import { openDevice } from "./open-device.ts";

const int64 = (rows: number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
const rows = [
  [5, 9, 12, 40, 7, 81, 22, 64],
  [3, 77, 12, 12, 50, 8, 90, 1],
];
const batch = { ids: int64(rows), targets: int64(rows.map((row) => [...row.slice(1), -100])) };
const packed = { ...batch, documentStarts: int64([[0, 0, 0, 3, 3, 3, 3, 3], Array(8).fill(0)]) };

/** Losses, gradient norms and trained values of some steps. */
async function training(on: Device, method: "lora" | "everything", feeds: typeof batch, steps: number) {
  const model = loadCausalLM(new URL("../../tests/fixtures/llama-tiny", import.meta.url).pathname);
  if (method === "lora") applyWeights(model, [lora({ rank: 4, targets: "all-linear" })]);
  const parameters = model.trainableParameters();
  const optimizer = adamW({ learningRate: 0.01 }).create(oneGroup(parameters));
  const options = { objective: causalLanguageModel(model), optimizer, maxGradientNorm: 1, compute: on.compute };
  const program = await on.compile(traceStep(feeds, options));
  const figures: number[] = [];
  for (let step = 1; step <= steps; step++) {
    const { total, gradientNorm } = await program.run({ ...feeds, ...stepFeeds(optimizer, { learningRate: 0.01, updates: () => step }) });
    figures.push(Number(total!.data[0]), Number(gradientNorm!.data[0]));
  }
  await on.toHost();
  await program.dispose();
  return { figures, values: parameters.map((p) => Array.from(on.read(p).data as Float32Array)) };
}

/** Losses and norms within a share of theirs, weights within a distance. */
function expectAlike(here: Awaited<ReturnType<typeof training>>, there: typeof here, figures = 1e-4, weights = 1e-3): void {
  for (const [i, figure] of here.figures.entries()) expect(Math.abs(there.figures[i]! - figure) / figure).toBeLessThan(figures);
  for (const [i, values] of here.values.entries())
    for (const [j, value] of values.entries()) expect(Math.abs(there.values[i]![j]! - value)).toBeLessThan(weights);
}

test("standard operators only, as CUDA is given them, compute the same steps, and in float16 nearly the same", async () => {
  const processor = await device("cpu");
  const standard = (compute: ComputeDtype) => new Device({ ...processor.platform, provider: "onnx", copiesOutputs: false, compute });
  for (const feeds of [batch, packed]) {
    const here = await training(processor, "everything", feeds, 3);
    expectAlike(here, await training(standard("float32"), "everything", feeds, 3));
    expectAlike(here, await training(standard("float16"), "everything", feeds, 3), 2e-2, 4e-2);
  }
});

describe.runIf(providers.includes("webgpu"))("webgpu", () => {
  test.each([
    ["a LoRA step", "lora", batch, 1],
    ["LoRA steps on packed rows", "lora", packed, 2],
    ["steps that train everything", "everything", batch, 3],
  ] as const)("%s: losses, norms and weights are the processor's", async (_, method, feeds, steps) => {
    expectAlike(await training(await device("cpu"), method, feeds, steps), await training(await device("webgpu"), method, feeds, steps));
  });

  test("weights and moments that stay on the device: the same numbers, and an honest answer to whoever reads them", async () => {
    const on = webgpu({ keepsState: true });
    const through = await training(await device("webgpu"), "lora", batch, 2);
    expect(await training(on, "lora", batch, 2)).toEqual(through);
    const counter = new Variable("counter", { dtype: "float32", shape: [2] }, floats([2], Float32Array.of(1, 10)));
    const values = () => Array.from(on.read(counter).data as Float32Array);
    const step = await on.compile(
      trace({ x: { dtype: "float32", shape: [] } }, ({ x }) => {
        const now = read(counter);
        assign(counter, mul(add(now, x), 2));
        return { now };
      }),
    );
    const run = (x: number, accept = true) => step.run({ x: hostTensor("float32", [], Float32Array.of(x)) }, () => accept);
    const reader = await on.compile(trace({}, () => ({ half: mul(read(counter), 0.5) })));
    await run(1);
    expect(Array.from((await run(0)).now!.data as Float32Array)).toEqual([4, 22]);
    expect(() => on.read(counter)).toThrow(/"counter" are in the graphics processor's memory. Await device.toHost/);
    expect(() => on.persist(counter)).toThrow(/toHost/);
    await run(7, false);
    expect(Array.from((await reader.run()).half!.data as Float32Array)).toEqual([4, 22]);
    await on.toHost();
    expect(values()).toEqual([8, 44]);
    await run(0);
    on.write(counter, Float32Array.of(3, 5));
    expect(values()).toEqual([3, 5]);
    await run(0);
    counter.storage = floats([2], Float32Array.of(9, 9));
    expect(values()).toEqual([9, 9]);
    await run(1);
    await step.dispose();
    expect(values()).toEqual([20, 20]);
    on.persist(counter);
    await on.dispose();
    expect(Array.from((counter.storage as { data: Float32Array }).data)).toEqual([20, 20]);
  });

  test("a run whose state stays on the device ends and resumes with the processor's weights", async () => {
    const root = mkdtempSync(join(tmpdir(), "espalier-webgpu-"));
    const run = async (on: Device, name: string, pauseAt: number, resume = false) => {
      const model = loadCausalLM(new URL("../../tests/fixtures/llama-tiny", import.meta.url).pathname);
      const data = { batchesPerEpoch: 1, batch: () => ({ feeds: batch, tokens: 16, examples: 2, description: "a batch" }) };
      const evaluator = new Evaluator(on, causalLanguageModel(model));
      const losses: number[] = [];
      await train({
        model,
        objective: causalLanguageModel(model),
        data,
        device: on,
        methods: [lora({ rank: 2 })],
        optimizer: adamW({ learningRate: 0.01 }),
        steps: 4,
        pauseAt,
        resume,
        directory: join(root, name),
        evaluateEvery: 2,
        evaluate: async () => {
          const { loss } = await evaluator.run(data);
          losses.push(loss);
          return { loss };
        },
      });
      const weights = model.trainableParameters().map((p) => Array.from((p.storage as MemoryStorage).data as Float32Array));
      return { losses, weights };
    };
    const on = await openDevice("webgpu");
    await run(on, "there", 2);
    const [here, there] = [await run(await device("cpu"), "here", 4), await run(on, "there", 4, true)];
    await on.dispose();
    rmSync(root, { recursive: true });
    expect(Math.abs(there.losses.at(-1)! - here.losses.at(-1)!)).toBeLessThan(1e-4);
    for (const [i, values] of here.weights.entries())
      for (const [j, value] of values.entries()) expect(Math.abs(there.weights[i]![j]! - value)).toBeLessThan(1e-3);
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
