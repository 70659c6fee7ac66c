import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { assign, type Tensor, trace } from "../../graph/index.ts";
import { floats, Parameter } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { adamW, type Optimizer, oneGroup, sgd } from "./index.ts";

/** 20 steps of PyTorch's optimizers on given gradients, in float64; see tests/fixtures/README.md. */
interface Reference {
  initial: Record<"weight" | "bias", { shape: number[]; values: number[] }>;
  gradientsOfStep: Record<"weight" | "bias", number[]>[];
  runs: { optimizer: string; options: Record<string, unknown>; parametersAfterStep: Record<"weight" | "bias", number[]>[] }[];
}
const reference = JSON.parse(readFileSync("tests/fixtures/adamw.json", "utf8")) as Reference;
const device = cpu({ threads: 1 });

const names = ["weight", "bias"] as const;

async function runOptimizer(optimizer: Optimizer & { learningRate: number }): Promise<Record<"weight" | "bias", number[]>[]> {
  const parameters = names.map((name) => {
    const { shape, values } = reference.initial[name];
    const p = new Parameter(shape, () => floats(shape, Float32Array.from(values)));
    p.name = name;
    return p;
  });
  const groups = oneGroup(parameters);
  const state = optimizer.create(groups);
  const scalarNames = Object.keys(state.scalars(groups[0]!, 1, 0));
  const types = Object.fromEntries([
    ...parameters.map((p) => [`gradient.${p.name}`, { dtype: "float32", shape: p.shape }] as const),
    ...scalarNames.map((n) => [n, { dtype: "float32", shape: [] }] as const),
  ]);
  const program = await device.compile(
    trace(types, (inputs: Record<string, Tensor>) => {
      for (const p of parameters) for (const [v, next] of state.update(p, inputs[`gradient.${p.name}`]!, inputs)) assign(v, next);
      return { done: inputs[scalarNames[0]!]! };
    }),
  );
  const steps = [];
  for (const [i, gradients] of reference.gradientsOfStep.entries()) {
    const feeds = Object.fromEntries([
      ...parameters.map(
        (p) => [`gradient.${p.name}`, hostTensor("float32", p.shape, Float32Array.from(gradients[p.name as "weight"]))] as const,
      ),
      ...Object.entries(state.scalars(groups[0]!, i + 1, optimizer.learningRate)).map(
        ([n, v]) => [n, hostTensor("float32", [], Float32Array.of(v))] as const,
      ),
    ]);
    await program.run(feeds);
    steps.push(
      Object.fromEntries(parameters.map((p) => [p.name, Array.from(device.read(p).data as Float32Array)])) as Record<
        "weight" | "bias",
        number[]
      >,
    );
  }
  return steps;
}
describe("optimizers give PyTorch's numbers over 20 steps", () => {
  for (const { optimizer: name, options, parametersAfterStep } of reference.runs) {
    test(`${name} ${JSON.stringify(options)}`, async () => {
      const o = options as { lr: number; betas: [number, number]; eps: number; momentum: number; nesterov: boolean; weight_decay: number };
      const common = { learningRate: o.lr, weightDecay: o.weight_decay, decays: () => true };
      const ours = await runOptimizer(
        name === "adamw"
          ? adamW({ ...common, betas: o.betas, epsilon: o.eps })
          : sgd({ ...common, momentum: o.momentum, nesterov: o.nesterov }),
      );
      expect(ours).toHaveLength(parametersAfterStep.length);
      for (const [step, expected] of parametersAfterStep.entries()) {
        for (const parameter of names) {
          const worst = Math.max(...expected[parameter].map((v, i) => Math.abs(v - ours[step]![parameter][i]!)));
          expect(worst, `step ${step + 1} ${parameter}`).toBeLessThan(5e-6);
        }
      }
    });
  }
});

describe("groups", () => {
  const parameter = (name: string) => {
    const p = new Parameter([2, 2], () => floats([2, 2], new Float32Array(4).fill(1)));
    p.name = name;
    return p;
  };

  test("have scalars of their own: number of updates and weight decay", () => {
    const [a, b] = [
      { name: "a", parameters: [parameter("a")] },
      { name: "b", parameters: [parameter("b")], weightDecay: 0.5 },
    ];
    const state = adamW({ learningRate: 1, weightDecay: 0.1, betas: [0.9, 0.99] }).create([a, b]);
    // Bias correction: lr·(1−β₁)/(1−β₁ᵗ)/c with c = √((1−β₂)/(1−β₂ᵗ)); at the first update everything but the rate cancels.
    expect(state.scalars(a, 1, 0.01)).toEqual({ stepSize: 0.01, epsilon: 1e-8, decay: 1 - 0.01 * 0.1 });
    expect(state.scalars(b, 1, 0.01).decay).toBe(1 - 0.01 * 0.5);
    expect(state.scalars(b, 3, 0.01).stepSize).toBeCloseTo((0.01 * 0.1) / (1 - 0.9 ** 3) / Math.sqrt(0.01 / (1 - 0.99 ** 3)), 12);
  });

  test("moments are not called what PyTorch calls its own, which have another scale", () => {
    const names = adamW({ learningRate: 1 })
      .create(oneGroup([parameter("w")]))
      .variables.map((v) => v.name);
    expect(names).toEqual(["w.first_moment", "w.second_moment"]);
  });
});

test("nesterov without momentum is refused", () => {
  expect(() => sgd({ learningRate: 1, nesterov: true })).toThrow(/needs a momentum above 0, got 0/);
});
