import { describe, expect, test } from "vitest";
import { onnx } from "../../tests/onnx-proto.ts";
import { Random, type Traced } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/families/llama.ts";
import type { Parameter } from "../nn/index.ts";
import { encode } from "../onnx/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { applyWeights } from "./method.ts";
import { MethodSet } from "./method-set.ts";
import { causalLanguageModel } from "./objectives/index.ts";
import { adamW } from "./optimizers/index.ts";
import { Accumulator, type StepOptions, stepFeeds, traceStep } from "./step.ts";

const config = llamaConfigSchema.parse({
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  max_position_embeddings: 16,
  tie_word_embeddings: true,
});
const device = cpu({ threads: 1 });
const random = new Random(1);
const ids = () =>
  hostTensor(
    "int64",
    [2, 8],
    BigInt64Array.from({ length: 16 }, () => BigInt(random.integer(32))),
  );
const batch = { ids: ids(), targets: ids() };

const layerOf = (p: Parameter) => /layers\.\d/.exec(p.name)![0];

/** Low-rank adapters on a small model, with a gate for each layer or without gates. */
function setUp(options: { gates: boolean; maxGradientNorm?: number }) {
  const model = new LlamaForCausalLM(config, 3);
  applyWeights(model, [lora({ rank: 2 })]);
  const parameters = model.trainableParameters();
  // B starts at zero, where A has no gradient.
  const weights = new Random(4);
  for (const p of parameters)
    device.write(
      p,
      Float32Array.from({ length: p.shape[0]! * p.shape[1]! }, () => weights.normal() * 0.1),
    );
  const selection = { gates: new Map(parameters.map((p) => [p, layerOf(p)])), choose: () => ({}) };
  const { groups } = new MethodSet(options.gates ? [{ name: "test", options: {}, selection: () => selection }] : [], parameters);
  const optimizer = adamW({ learningRate: 1e-2, weightDecay: 0.1 }).create(groups);
  const step: StepOptions = { objective: causalLanguageModel(model), optimizer, maxGradientNorm: options.maxGradientNorm };
  const present = () =>
    new Map([...parameters, ...optimizer.variables].map((v) => [v.name, Array.from(device.read(v).data as Float32Array)]));
  return { parameters, optimizer, step, values: present };
}

const feeds = (optimizer: StepOptions["optimizer"], n: number, open: Record<string, boolean>) =>
  stepFeeds(optimizer, { learningRate: 1e-2, updates: () => n, open });
const everyLayer = { "layers.0": true, "layers.1": true, "layers.2": true };

interface OnnxNode {
  opType: string;
  name: string;
  attribute: { g?: { node: OnnxNode[] } }[];
}

/** Nodes of the program: those that always run, and those inside branches. */
function nodesOf(traced: Traced): { always: OnnxNode[]; gated: OnnxNode[] } {
  const { bytes } = encode(traced, { values: (v) => new Float32Array(v.shape.reduce((a, b) => a * b, 1)) });
  const always = (onnx.ModelProto.decode(bytes) as unknown as { graph: { node: OnnxNode[] } }).graph.node;
  const inside = (n: OnnxNode): OnnxNode[] => n.attribute.flatMap(({ g }) => g?.node ?? []).flatMap((m) => [m, ...inside(m)]);
  return { always, gated: always.flatMap(inside) };
}
const products = (nodes: readonly OnnxNode[]) => nodes.filter(({ opType }) => /MatMul|Gemm/.test(opType)).length;

describe("gates", () => {
  test.each([undefined, 0.5])("no gradient of a gated weight is computed outside its gate (clipping at %s)", (maxGradientNorm) => {
    const [free, gated] = [setUp({ gates: false, maxGradientNorm }), setUp({ gates: true, maxGradientNorm })];
    const [all, some] = [nodesOf(traceStep(batch, free.step)), nodesOf(traceStep(batch, gated.step))];
    expect(all.gated).toHaveLength(0);
    // One product gives the gradient of each matrix; what only those of the lowest layer need is gated with them.
    expect(products(some.always)).toBeLessThanOrEqual(products(all.always) - gated.parameters.length);
    expect(products(some.always) + products(some.gated)).toBe(products(all.always));
    // One If for the gradients of a gate and one for its updates, and no arithmetic of an update outside.
    expect(some.always.filter(({ opType }) => opType === "If")).toHaveLength(2 * 3);
    expect(some.always.filter(({ name }) => /lora_[AB]\.weight(\+\d+)?\//.test(name))).toHaveLength(0);
  });

  test("nor in accumulation", () => {
    const [free, gated] = [setUp({ gates: false }), setUp({ gates: true })];
    const [all, some] = [nodesOf(new Accumulator(free.step).traceBatch(batch)), nodesOf(new Accumulator(gated.step).traceBatch(batch))];
    expect(products(some.always)).toBeLessThanOrEqual(products(all.always) - gated.parameters.length);
    expect(some.always.filter(({ opType }) => opType === "If")).toHaveLength(3);
  });

  test.each([undefined, 0.05])("all open: the numbers of the ungated step (clipping at %s)", async (maxGradientNorm) => {
    const run = async (gates: boolean) => {
      const { step, optimizer, parameters, values } = setUp({ gates, maxGradientNorm });
      const program = await device.compile(traceStep(batch, step));
      const norms = [];
      for (let n = 1; n <= 3; n++)
        norms.push(Number((await program.run({ ...batch, ...feeds(optimizer, n, everyLayer) })).gradientNorm!.data[0]));
      await program.dispose();
      return { norms, values: parameters.flatMap(({ name }) => values().get(name)!) };
    };
    const [gated, free] = [await run(true), await run(false)];
    // What is updated together differs, and with it the order in which squares are added up for the norm. Without clipping nothing else reads that.
    for (const [i, norm] of free.norms.entries()) expect(gated.norms[i]! / norm).toBeCloseTo(1, 6);
    if (maxGradientNorm === undefined) expect(gated.values).toEqual(free.values);
    else for (const [i, value] of free.values.entries()) expect(gated.values[i]).toBeCloseTo(value, 5);
  });

  test.each([undefined, 0.05])(
    "closed: parameters and moments stay bit for bit, decay included (clipping at %s)",
    async (maxGradientNorm) => {
      const { step, optimizer, values } = setUp({ gates: true, maxGradientNorm });
      const program = await device.compile(traceStep(batch, step));
      // Moments that are not zero would move even with a zero gradient.
      const first = await program.run({ ...batch, ...feeds(optimizer, 1, everyLayer) });
      const before = values();
      const second = await program.run({ ...batch, ...feeds(optimizer, 2, { "layers.1": true }) });
      for (const [name, value] of values())
        if (name.includes("layers.1.")) expect(value, name).not.toEqual(before.get(name));
        else expect(value, name).toEqual(before.get(name));
      // The norm is that of the gradients that are used.
      const norm = (out: Record<string, HostTensor>) => Number(out.gradientNorm!.data[0]);
      expect(norm(second)).toBeLessThan(norm(first));
      expect(norm(second)).toBeGreaterThan(0);
      await program.dispose();
    },
  );

  test("accumulation leaves what is closed alone, and an open gate gets the update of one large batch", async () => {
    const run = async (accumulate: boolean) => {
      const { step, optimizer, values } = setUp({ gates: true, maxGradientNorm: 1 });
      const common = feeds(optimizer, 1, { "layers.2": true });
      const before = values();
      const accumulator = new Accumulator(step);
      const programs = accumulate ? [accumulator.traceBatch(batch), accumulator.traceUpdate()] : [traceStep(batch, step)];
      for (const traced of programs) {
        const program = await device.compile(traced);
        await program.run({ ...batch, ...common });
        await program.dispose();
      }
      return { before, after: values() };
    };
    const [whole, parts] = [await run(false), await run(true)];
    for (const [name, value] of parts.after) {
      if (!name.includes("layers.2.")) expect(value, name).toEqual(parts.before.get(name));
      for (const [i, v] of value.entries()) expect(v, name).toBeCloseTo(whole.after.get(name)![i]!, 6);
    }
  });
});

test("every computing node of a step names what it belongs to", () => {
  for (const gates of [false, true]) {
    const { graph, outputs } = traceStep(batch, setUp({ gates, maxGradientNorm: 1 }).step);
    const computing = graph.nodes.filter(({ op }) => !["Input", "Constant", "Variable"].includes(op.name));
    expect(computing.filter(({ path }) => path === "").map(({ op }) => op.name)).toEqual([]);
    const paths = new Set(computing.map(({ path }) => path));
    for (const path of ["lm_head", "loss", "optimizer/clip", "model.layers.0.self_attn.q_proj"]) expect(paths).toContain(path);
    if (!gates) expect([...paths].filter((path) => /^optimizer\/.*q_proj\.lora_A\.weight\+\d+$/.test(path))).toHaveLength(1);
    expect(outputs.gradientNorm!.node.path).toBe("optimizer/clip");
  }
});
