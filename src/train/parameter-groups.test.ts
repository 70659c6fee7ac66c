import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { config as modelConfig, options, weights } from "../../tests/train/counting.ts";
import { assign, trace } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { LlamaForCausalLM } from "../models/families/llama.ts";
import { floats, Parameter } from "../nn/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { MethodSet } from "./method-set.ts";
import { adamW, joined, parted } from "./optimizers/index.ts";
import { type GroupRule, learningRateOf, loraPlus, parameterGroups } from "./parameter-groups.ts";
import { schedule } from "./schedules.ts";
import { train } from "./trainer.ts";

const named = (name: string, shape: number[] = [2, 2]) => {
  const p = new Parameter(shape, () => floats(shape, new Float32Array(shape.reduce((a, b) => a * b, 1))));
  p.name = name;
  return p;
};
const parameters = ["embed.weight", "layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_B.weight", "layers.1.q_proj.lora_B.weight"].map(
  (n) => named(n),
);
const groupsOf = (rules: readonly GroupRule[]) => new MethodSet([parameterGroups(rules, parameters)], parameters).groups;
const members = (rules: readonly GroupRule[]) =>
  groupsOf(rules).map((g) => g.parameters.map(({ name }) => parameters.findIndex((p) => p.name === name)));

describe("patterns", () => {
  test.each<[GroupRule["match"], number[]]>([
    ["embed.weight", [0]],
    ["*lora_B*", [2, 3]],
    ["layers.*.weight", [1, 2, 3]],
    ["layers.*_proj*B*", [2, 3]],
    ["*", [0, 1, 2, 3]],
    [/lora_[AB]/g, [1, 2, 3]],
    [/^layers\.1/, [3]],
    [(p) => p.name.includes("_A"), [1]],
  ])("%s", (match, expected) => {
    const rest = [0, 1, 2, 3].filter((i) => !expected.includes(i));
    expect(members([{ match, learningRateFactor: 2 }]).sort()).toEqual([expected, rest].filter((l) => l.length > 0).sort());
  });

  test("the first rule that fits counts", () => {
    const rules = [
      { match: "layers.1*", learningRateFactor: 3 },
      { match: "*lora_B*", learningRateFactor: 2, weightDecay: 0.5 },
    ];
    expect(
      groupsOf(rules).map(({ learningRateFactor, weightDecay, parameters: p }) => [learningRateFactor, weightDecay, p.length]),
    ).toEqual([
      [undefined, undefined, 2],
      [2, 0.5, 1],
      [3, undefined, 1],
    ]);
  });

  test("a rule that fits nothing is refused with the nearest names, one that others leave nothing for too", () => {
    const refuse = (...rules: GroupRule[]) => expect(() => groupsOf(rules));
    refuse({ match: "layers.0.q_proj.lora_C.weight" }).toThrow(/fits no trained parameter. Nearest: layers.0.q_proj.lora_[AB].weight/);
    refuse({ match: "lora_B" }).toThrow(/"lora_B" fits no trained parameter/);
    refuse({ match: "*" }, { match: "embed*" }).toThrow(/"embed\*": every parameter that it fits is taken by a rule before it/);
    refuse({ match: "embed*", from: 5, to: 3 }).toThrow(/to 3\) must not be before the first \(from 5/);
    refuse({ match: "embed*", learningRate: -1 }).toThrow(/"embed\*": learningRate: /);
    refuse({ match: "embed*", learningrate: 1 } as never).toThrow(/learningrate/);
    refuse({ match: 3 } as never).toThrow(/match: must be a pattern/);
    expect(members([{ match: "absent", optional: true }])).toEqual([[0, 1, 2, 3]]);
  });
});

test("a group's rate: its own peak and schedule, times its factor", () => {
  const run = { peak: 0.1, schedule: schedule("linear"), step: 6, steps: 10 };
  const rate = (rule: Omit<GroupRule, "match">) => learningRateOf(groupsOf([{ match: "*", ...rule }])[0]!, run);
  expect(rate({})).toBeCloseTo(0.05, 12);
  expect(rate({ learningRateFactor: 4 })).toBeCloseTo(0.2, 12);
  expect(rate({ learningRate: 1 })).toBeCloseTo(0.5, 12);
  expect(rate({ schedule: schedule("constant"), learningRateFactor: 2 })).toBeCloseTo(0.2, 12);
});

test("LoRA+: PEFT's numbers over 20 steps", async () => {
  const reference = (
    JSON.parse(readFileSync("tests/fixtures/optimizers.json", "utf8")) as {
      loraPlus: {
        learningRate: number;
        ratio: number;
        initial: Record<string, { shape: number[]; values: number[] }>;
        gradientsOfStep: Record<string, number[]>[];
        parametersAfterStep: Record<string, number[]>[];
      };
    }
  ).loraPlus;
  const device = cpu({ threads: 1 });
  const trained = Object.entries(reference.initial).map(([name, { shape, values }]) => {
    const p = new Parameter(shape, () => floats(shape, Float32Array.from(values)));
    p.name = name;
    return p;
  });
  const optimizer = adamW({ learningRate: reference.learningRate });
  const { groups } = new MethodSet([parameterGroups(loraPlus(reference.ratio), trained)], trained);
  const state = optimizer.create(groups);
  const feeds = (step: number) =>
    Object.fromEntries(
      groups.flatMap((g) =>
        Object.entries(
          state.scalars(g, step, learningRateOf(g, { peak: reference.learningRate, schedule: undefined, step, steps: 20 })),
        ).map(([name, value]) => [`${g.name}/${name}`, hostTensor("float32", [], Float32Array.of(value))] as const),
      ),
    );
  const gradients = (step: number) =>
    Object.fromEntries(
      trained.map((p) => [
        `gradient ${p.name}`,
        hostTensor("float32", p.shape, Float32Array.from(reference.gradientsOfStep[step - 1]![p.name]!)),
      ]),
    );
  const program = await device.compile(
    trace({ ...gradients(1), ...feeds(1) }, (inputs) => {
      for (const slot of state.slots) {
        const scalars = Object.fromEntries(
          Object.keys(state.scalars(slot.group, 1, 0)).map((name) => [name, inputs[`${slot.group.name}/${name}`]!]),
        );
        const gradient = joined(slot, (p) => inputs[`gradient ${p.name}`]!);
        const next = state.update(slot, { value: joined(slot, (p) => p.value), gradient, scalars });
        for (const [v, tensor] of [...next.state, ...parted(slot, next.value)]) assign(v, tensor);
      }
      return {};
    }),
  );
  for (const [i, expected] of reference.parametersAfterStep.entries()) {
    await program.run({ ...gradients(i + 1), ...feeds(i + 1) });
    for (const p of trained) {
      const ours = device.read(p).data as Float32Array;
      for (const [j, value] of expected[p.name]!.entries())
        expect(Math.abs(ours[j]! - value), `step ${i + 1} ${p.name}`).toBeLessThan(2e-5);
    }
  }
});

describe("in a run", () => {
  const initial = () => weights(new LlamaForCausalLM(modelConfig, 3));
  const nameOf = (model: LlamaForCausalLM) => model.parameters().map(({ name }) => name);

  test("parameters whose steps come later stay as they are until then, and then move by the learning rate", async () => {
    const rule = { match: "model.layers.1.*", from: 3, learningRate: 1e-3 };
    const two = options({ steps: 2, groups: [rule] });
    await train(two);
    const names = nameOf(two.model);
    const [before, after] = [initial(), weights(two.model)];
    for (const [i, name] of names.entries())
      if (name.startsWith("model.layers.1.")) expect(after[i], name).toEqual(before[i]);
      else expect(after[i], name).not.toEqual(before[i]);
    const three = options({ steps: 3, groups: [rule] });
    await train(three);
    // Adam's first update is the learning rate in each element, whatever the step.
    const at = names.indexOf("model.layers.1.mlp.up_proj.weight");
    const moved = weights(three.model)[at]!.map((v, j) => Math.abs(v - before[at]![j]!));
    expect(Math.max(...moved)).toBeCloseTo(1e-3, 6);
  });

  test("rules compose with the groups of methods, and a factor of 0 trains nothing", async () => {
    const o = options({ steps: 2, methods: [lora({ rank: 2 })], groups: [{ match: "*lora_A*", learningRateFactor: 0 }] });
    await train(o);
    const moved = o.model.trainableParameters().filter((p) => (o.device.read(p).data as Float32Array).some((v) => v !== 0));
    expect(moved.length).toBe(8);
    const again = options({ steps: 2, methods: [lora({ rank: 2 })] });
    await train(again);
    const a = (model: LlamaForCausalLM) => model.trainableParameters().find(({ name }) => name.includes("lora_A"))!;
    expect(o.device.read(a(o.model)).data).not.toEqual(again.device.read(a(again.model)).data);
  });
});
