import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { BatchSource } from "../data/index.ts";
import { assign, Random, read, Variable } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/families/llama.ts";
import { floats, type Parameter } from "../nn/index.ts";
import { add, mul } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { Evaluator } from "./evaluate.ts";
import { applyWeights, type Method } from "./method.ts";
import { causalLanguageModel } from "./objectives/index.ts";
import { adamW, sgd } from "./optimizers/index.ts";
import type { TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

const config = llamaConfigSchema.parse({
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  max_position_embeddings: 16,
});

const data: BatchSource = {
  batchesPerEpoch: 50,
  batch(step) {
    const random = new Random(7, step);
    const ids = () =>
      hostTensor(
        "int64",
        [2, 8],
        BigInt64Array.from({ length: 16 }, () => BigInt(random.integer(32))),
      );
    return { feeds: { ids: ids(), targets: ids() }, tokens: 16, examples: 2, description: `batch ${step}` };
  },
};

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-method-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

type Options = TrainOptions & { model: LlamaForCausalLM };

function options(methods: readonly Method[], overrides: Partial<TrainOptions> = {}): Options {
  const model = new LlamaForCausalLM(config, 3);
  const optimizer = adamW({ learningRate: 1e-2, weightDecay: 0.1 });
  const base = { model, objective: causalLanguageModel(model), data, device: cpu({ threads: 1 }), optimizer, steps: 8, methods };
  return { ...base, ...overrides } as Options;
}

/** Trained values by name. */
const trained = ({ model, device }: Options) =>
  new Map(model.trainableParameters().map((p) => [p.name, Array.from(device.read(p).data as Float32Array)]));

/** Trains in two parts, each with methods of its own, as two processes would. */
async function inParts(methods: () => readonly Method[], overrides: Partial<TrainOptions>): Promise<Options> {
  const controller = new AbortController();
  const stop = ({ step }: { step: number }) => step === 3 && controller.abort();
  await train(options(methods(), { ...overrides, directory, signal: controller.signal, onStep: stop }));
  const second = options(methods(), { ...overrides, directory, resume: true });
  await train(second);
  return second;
}

const norms: Method = {
  name: "norms",
  options: {},
  weights(model) {
    for (const p of model.parameters()) if (p.name.endsWith("norm.weight")) p.frozen = false;
  },
};
const layerOf = (p: Parameter) => /layers\.\d/.exec(p.name)![0];

/** Trains the layer that was trained least, of two drawn at random: a selection with a state. */
function leastTrained(): Method & { counts: Record<string, number> } {
  const counts: Record<string, number> = { "layers.0": 0, "layers.1": 0, "layers.2": 0 };
  let chosen = "";
  return {
    name: "least-trained",
    options: {},
    counts,
    selection: (parameters) => ({
      gates: new Map(parameters.map((p) => [p, layerOf(p)])),
      choose(step) {
        const two = new Random(5, step).shuffle(Object.keys(counts)).slice(1);
        chosen = two.sort((a, b) => counts[a]! - counts[b]!)[0]!;
        return Object.fromEntries(Object.keys(counts).map((gate) => [gate, gate === chosen]));
      },
    }),
    afterStep() {
      counts[chosen]!++;
    },
    state: () => counts,
    restore: (state) => Object.assign(counts, state),
  };
}

describe("weights", () => {
  test("methods add to what those before them train, in either order", () => {
    for (const methods of [
      [norms, lora()],
      [lora(), norms],
    ]) {
      const { model } = options([]);
      applyWeights(model, methods);
      const names = model.trainableParameters().map((p) => p.name);
      expect(names.filter((n) => n.endsWith("norm.weight"))).toHaveLength(7);
      expect(names.filter((n) => n.includes(".lora_"))).toHaveLength(3 * 2 * 2);
      expect(names).toHaveLength(7 + 12);
    }
  });

  test("a second adapter on the same layer is refused and named; on other layers it is welcome", () => {
    const { model } = options([]);
    applyWeights(model, [lora({ targets: ["q_proj"] })]);
    expect(() => applyWeights(model, [lora({ targets: ["q_proj"] })])).toThrow(
      /"model\.layers\.0\.self_attn\.q_proj" carries an adapter already.*merge/,
    );
    applyWeights(model, [lora({ targets: ["v_proj"] })]);
    expect(model.trainableParameters()).toHaveLength(3 * 2 * 2);
  });

  test("what was saved loads, what is merged computes the same, and the method may be applied anew", async () => {
    const method = lora({ rank: 2 });
    const o = options([method]);
    await train(o);
    const evaluate = (model: LlamaForCausalLM) => new Evaluator(o.device, causalLanguageModel(model)).run({ ...data, batchesPerEpoch: 2 });
    const { loss } = await evaluate(o.model);
    method.save!(directory, { model: o.model, parameters: o.model.trainableParameters() });
    const other = new LlamaForCausalLM(config, 3);
    expect((await evaluate(other)).loss).not.toBeCloseTo(loss, 3);
    method.load!(other, directory);
    expect((await evaluate(other)).loss).toBe(loss);

    method.merge!(o.model, o.device);
    expect(o.model.trainableParameters()).toHaveLength(0);
    expect((await evaluate(o.model)).loss).toBeCloseTo(loss, 5);
    await train({ ...o, steps: 2 });
    expect(o.model.trainableParameters()).toHaveLength(3 * 2 * 2);
  });

  test("an adapter's file holds the adapter only", () => {
    const { model } = options([]);
    const method = lora({ rank: 2 });
    applyWeights(model, [norms, method]);
    method.save!(directory, { model, parameters: model.trainableParameters() });
    method.load!(new LlamaForCausalLM(config, 3), directory);
  });
});

describe("selection", () => {
  test.each([1, 2])("a run that was stopped and resumed equals one that was not (%d batches per step)", async (accumulate) => {
    const method = leastTrained();
    const whole = options([lora({ rank: 2 }), method], { accumulate });
    await train(whole);
    const parts = await inParts(() => [lora({ rank: 2 }), leastTrained()], { accumulate });
    expect(trained(parts)).toEqual(trained(whole));
    expect(Object.values(method.counts).reduce((a, b) => a + b)).toBe(8);
    expect(Math.min(...Object.values(method.counts))).toBeGreaterThan(1);
  });

  test("all open: the numbers of a run without the method", async () => {
    const open: Method = {
      name: "open",
      options: {},
      selection: (parameters) => ({
        gates: new Map(parameters.map((p) => [p, layerOf(p)])),
        choose: () => ({ "layers.0": true, "layers.1": true, "layers.2": true }),
      }),
    };
    const [gated, free] = [options([lora(), open]), options([lora()])];
    await train(gated);
    await train(free);
    expect(trained(gated)).toEqual(trained(free));
  });

  /** One gate over every parameter, open from a step on. */
  const from = (first: number): Method => ({
    name: "from",
    options: {},
    selection: (parameters) => ({ gates: new Map(parameters.map((p) => [p, "all"])), choose: (step) => ({ all: step >= first }) }),
  });

  test("the bias correction counts a gate's own updates: its first one moves by the learning rate", async () => {
    const start = options([lora({ rank: 2 })]);
    applyWeights(start.model, start.methods!);
    const before = trained(start);
    const late = options([lora({ rank: 2 }), from(3)], { steps: 3, optimizer: adamW({ learningRate: 1e-2, epsilon: 1e-12 }) });
    await train(late);
    for (const [name, values] of trained(late)) {
      if (name.includes("lora_A")) continue; // no gradient while B is zero
      for (const [i, v] of values.entries()) expect(Math.abs(v - before.get(name)![i]!), name).toBeCloseTo(1e-2, 4);
    }
  });

  test("a parameter behind the gates of two methods is updated when both are open", async () => {
    const until: Method = { ...from(0), name: "until", selection: (p) => ({ ...from(0).selection!(p), choose: (s) => ({ all: s <= 2 }) }) };
    const [both, two] = [options([lora(), from(2), until], { steps: 4 }), options([lora(), from(2)], { steps: 2 })];
    await train(both);
    await train(two);
    expect(trained(both)).toEqual(trained(two));
  });

  test("a gate about which nothing is said is an error", async () => {
    const silent: Method = { ...from(1), selection: (p) => ({ ...from(1).selection!(p), choose: () => ({}) }) };
    await expect(train(options([lora(), silent]))).rejects.toThrow(/from: step 1 does not say whether the gate "all" is open/);
  });
});

test("groups: one matrix of each adapter at a learning rate of its own", async () => {
  const factor = (learningRateFactor: number): Method => ({
    name: "faster-b",
    options: {},
    group: (p) => (p.name.includes("lora_B") ? { name: "b", learningRateFactor } : undefined),
  });
  const run = async (methods: Method[]) => {
    const o = options([lora({ rank: 2 }), ...methods], { steps: 1, optimizer: sgd({ learningRate: 0.1 }), maxGradientNorm: Infinity });
    await train(o);
    return trained(o);
  };
  const [plain, faster] = [await run([]), await run([factor(16)])];
  for (const [name, values] of faster) {
    const times = name.includes("lora_B") ? 16 : 1;
    for (const [i, v] of values.entries()) expect(v, name).toBeCloseTo(plain.get(name)![i]! * times, 6);
  }
});

/** Scales the loss by an input of each step, and keeps a moving average of it in the graph. */
function scaledLoss(): Method & { average: Variable } {
  const average = new Variable("scaled-loss.average", { dtype: "float32", shape: [] }, () => floats([], new Float32Array(1)));
  return {
    name: "scaled-loss",
    options: {},
    average,
    variables: [average],
    inputs: (step) => ({ "loss.scale": hostTensor("float32", [], Float32Array.of(1 / step)) }),
    objective: (base) => ({
      name: base.name,
      trace(inputs) {
        const { total, weight } = base.trace(inputs);
        assign(average, add(mul(read(average), 0.9), mul(total, 0.1)));
        return { total: mul(total, inputs["loss.scale"]!), weight };
      },
    }),
  };
}

describe("inputs and variables", () => {
  test.each([1, 2])("reach the objective, and a resumed run goes on with them (%d batches per step)", async (accumulate) => {
    const [method, resumed] = [scaledLoss(), scaledLoss()];
    const losses: number[] = [];
    const whole = options([lora({ rank: 2 }), method], { accumulate, onStep: ({ loss }) => losses.push(loss) });
    await train(whole);
    expect(losses[7]! / losses[0]!).toBeCloseTo(1 / 8, 1);
    // The first part's variable is another one: the second knows the average from the checkpoint alone.
    const methods = [scaledLoss(), resumed].values();
    const parts = await inParts(() => [lora({ rank: 2 }), methods.next().value!], { accumulate });
    expect(trained(parts)).toEqual(trained(whole));
    const average = (o: Options, v: Variable) => (o.device.read(v).data as Float32Array)[0];
    expect(average(parts, resumed.average)).toBe(average(whole, method.average));
    expect(average(whole, method.average)).toBeGreaterThan(1);
  });

  test("the host state of a checkpoint must be that of the run's methods", async () => {
    await train(options([lora({ rank: 2 })], { directory, steps: 2 }));
    const state: Method = { name: "counter", options: {}, state: () => 1, restore: () => undefined };
    await expect(train(options([lora({ rank: 2 }), state], { directory, resume: true }))).rejects.toThrow(
      /holds the state of other methods \(none\) than this run's \(counter\)/,
    );
  });
});

test("afterStep may measure something of its own", async () => {
  const evaluations: number[] = [];
  const probe: Method = {
    name: "probe",
    options: {},
    async afterStep({ step }, { device, objective, data: source }) {
      if (step % 4 !== 0) return;
      const evaluator = new Evaluator(device, objective);
      evaluations.push((await evaluator.run({ ...source, batchesPerEpoch: 1 })).loss);
      await evaluator.dispose();
    },
  };
  await train(options([lora({ rank: 2 }), probe], { directory }));
  expect(evaluations).toHaveLength(2);
  expect(evaluations[1]).toBeLessThan(evaluations[0]!);
  const run = JSON.parse(readFileSync(join(directory, "run.json"), "utf8")) as { methods: { name: string }[] };
  expect(run.methods.map((m) => m.name)).toEqual(["lora", "probe"]);
});
