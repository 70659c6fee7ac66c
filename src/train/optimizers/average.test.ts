import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { options, weights } from "../../../tests/train/counting.ts";
import { assign, trace } from "../../graph/index.ts";
import { floats, Parameter } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { train } from "../trainer.ts";
import { averaged, oneGroup, sgd, swapAverages } from "./index.ts";

interface Reference {
  decay: number;
  initial: number[];
  weightsOfStep: number[][];
  averageAfterStep: number[][];
}
const reference = (JSON.parse(readFileSync("tests/fixtures/optimizers.json", "utf8")) as { average: Reference }).average;
const root = mkdtempSync(join(tmpdir(), "espalier-average-"));
afterAll(() => rmSync(root, { recursive: true }));

/** The averages after each step of weights that SGD with rate 1 puts where the reference has them. */
async function averagesOf(average: Parameters<typeof averaged>[1]) {
  const device = cpu({ threads: 1 });
  const shape = [3, 5];
  const p = new Parameter(shape, () => floats(shape, Float32Array.from(reference.initial)));
  p.name = "w";
  const groups = oneGroup([p]);
  const state = averaged(sgd({ learningRate: 1 }), average).create(groups);
  const feeds = (step: number, gradient: Float32Array) => ({
    gradient: hostTensor("float32", shape, gradient),
    ...Object.fromEntries(
      Object.entries(state.scalars(groups[0]!, step, 1)).map(([name, v]) => [name, hostTensor("float32", [], Float32Array.of(v))]),
    ),
  });
  const program = await device.compile(
    trace(feeds(1, new Float32Array(15)), (inputs) => {
      const [slot] = state.slots;
      const next = state.update(slot!, { value: p.value, gradient: inputs.gradient!, scalars: inputs });
      for (const [v, tensor] of [...next.state, [p, next.value] as const]) assign(v, tensor);
      return {};
    }),
  );
  const steps: number[][] = [];
  for (const [i, target] of reference.weightsOfStep.entries()) {
    const present = device.read(p).data as Float32Array;
    await program.run(
      feeds(
        i + 1,
        present.map((v, j) => v - target[j]!),
      ),
    );
    steps.push(Array.from(device.read(state.averages!.get(p)!).data as Float32Array));
  }
  return { steps, state, p, device };
}

describe("averages of weights", () => {
  test("are PyTorch's over 20 steps", async () => {
    const { steps } = await averagesOf({ decay: reference.decay, warmup: false });
    for (const [i, expected] of reference.averageAfterStep.entries())
      for (const [j, value] of expected.entries()) expect(steps[i]![j]).toBeCloseTo(value, 5);
  });

  test("with a warm-up decay by (1 + n) / (10 + n) at first, and move only every so many updates", async () => {
    const { steps } = await averagesOf({ decay: 0.3, warmup: true, every: 2 });
    let average = reference.initial;
    for (const [i, weight] of reference.weightsOfStep.entries()) {
      const n = (i + 1) / 2;
      const decay = Math.min(0.3, (1 + n) / (10 + n));
      if (Number.isInteger(n)) average = average.map((a, j) => decay * a + (1 - decay) * weight[j]!);
      for (const [j, value] of average.entries()) expect(steps[i]![j]).toBeCloseTo(value, 5);
    }
  });

  test("change places with the weights, and back", async () => {
    const { state, p, device, steps } = await averagesOf({ decay: 0.9 });
    const before = device.read(p).data;
    await swapAverages(state, device);
    expect(Array.from(device.read(p).data as Float32Array)).toEqual(steps.at(-1));
    await swapAverages(state, device);
    expect(device.read(p).data).toEqual(before);
  });

  test("wrong options are named", () => {
    expect(() => averaged(sgd({ learningRate: 1 }), { decay: 1 })).toThrow(/average: wrong options:\n {2}decay/);
    expect(() => averaged(sgd({ learningRate: 1 }), { every: 0 })).toThrow(/every/);
  });
});

describe("in a run", () => {
  const average = { decay: 0.5, warmup: false };

  test("evaluations and what is left at the end are of the averages; training goes on with the weights", async () => {
    const plain = options({ steps: 4 });
    await train(plain);
    const evaluated: number[][][] = [];
    const directory = join(root, "run");
    const o = options({ steps: 4, average, directory, evaluateEvery: 2, checkpointEvery: 2 });
    // What an evaluation reads is on the device.
    const present = () => o.model.parameters().map((p) => Array.from(o.device.read(p).data as Float32Array));
    await train({
      ...o,
      evaluate: async () => {
        evaluated.push(present());
        return { loss: 0 };
      },
    });
    expect(evaluated).toHaveLength(2);
    expect(weights(o.model)).toEqual(evaluated[1]);
    expect(weights(o.model)).not.toEqual(weights(plain.model));

    // Resumed from step 2, with the same numbers.
    rmSync(join(directory, "checkpoints", "step-4"), { recursive: true });
    const resumed = options({ steps: 4, average, directory, resume: true });
    await train(resumed);
    expect(weights(resumed.model)).toEqual(weights(o.model));
    // The last checkpoint holds the weights of a run without averages beside them.
    const last = options({ steps: 5, average: { decay: 0, warmup: false }, directory, resume: true });
    const five = options({ steps: 5 });
    await train(five);
    await train(last);
    const left = weights(last.model);
    // a + 1·(w − a) is w but for rounding.
    for (const [i, expected] of weights(five.model).entries())
      for (const [j, value] of expected.entries()) expect(left[i]![j]).toBeCloseTo(value, 6);
  });
});
