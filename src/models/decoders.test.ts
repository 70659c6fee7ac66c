/** Every decoder family computes what transformers computes, on tiny random checkpoints that it wrote. */
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../tests/models/adapt.ts";
import { device as trainingDevice } from "../../tests/models/reference.ts";
import { openSafetensors, readJsonObject, readStorage } from "../checkpoints/index.ts";
import { Decoder } from "../generate/decoder.ts";
import { symbol, type Tensor, type TensorType, trace } from "../graph/index.ts";
import { mergeAdapters } from "../methods/index.ts";
import { greaterOrEqual, lessOrEqual, logicalAnd, maximum, range, reshape, sub, unsqueeze } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { causalLanguageModel } from "../train/index.ts";
import { type CausalLM, loadCausalLM } from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

interface Expected {
  input_ids: number[][];
  padded: { input_ids: number[][]; attention_mask: number[][]; generated: number[][] };
}

const names = [
  "llama3-rope",
  "mistral",
  "qwen2",
  "qwen3",
  "gemma2",
  "gemma3",
  "olmo2",
  "phi3",
  "phi3-longrope",
  "gpt2",
  "gpt-neox",
  "gpt-neox-sequential",
  "opt",
  "opt-post-norm",
  "bloom",
];
const int64 = (rows: readonly number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

/** Logits of every position; with `padding`, of left-padded rows. */
async function logitsOf(model: CausalLM, ids: number[][], starts?: readonly number[], on = device): Promise<Float32Array> {
  const [batch, time] = [symbol("batch"), symbol("time")];
  const types: Record<string, TensorType> = { ids: { dtype: "int64", shape: [batch, time] } };
  if (starts) types.start = { dtype: "int64", shape: [batch] };
  const traced = trace(types, (inputs) => {
    const { ids, start } = inputs as { ids: Tensor; start?: Tensor };
    if (!start) return { logits: model.logits(model.forward({ ids }).hidden) };
    const columns = range(time);
    const visible: Tensor = logicalAnd(
      lessOrEqual(columns, reshape(columns, [time, 1])),
      greaterOrEqual(columns, reshape(start, [batch, 1, 1, 1])),
    );
    const positions = maximum(sub(unsqueeze(columns, 0), unsqueeze(start, 1)), 0);
    return { logits: model.logits(model.forward({ ids, positions, visible }).hidden) };
  });
  const program = await on.compile(traced);
  const start = starts && hostTensor("int64", [ids.length], BigInt64Array.from(starts, BigInt));
  const { logits } = await program.run({ ids: int64(ids), ...(start && { start }) });
  await program.dispose();
  return logits!.data as Float32Array;
}

function difference(got: Float32Array, expected: Float32Array, counts: (index: number) => boolean = () => true): number {
  expect(got.length).toBe(expected.length);
  return got.reduce((largest, v, i) => (counts(i) ? Math.max(largest, Math.abs(v - expected[i]!)) : largest), 0);
}

describe.each(names)("%s", (name) => {
  const directory = new URL(`../../tests/fixtures/decoder-${name}`, import.meta.url).pathname;
  const { tensors } = openSafetensors(join(directory, "expected.safetensors"));
  const values = (key: string) => readStorage(tensors.get(key)!) as Float32Array;
  const expected = readJsonObject(join(directory, "expected.json")) as unknown as Expected;
  const { input_ids, attention_mask, generated } = expected.padded;
  const starts = attention_mask.map((row) => row.indexOf(1));
  const model = loadCausalLM(directory).freeze();

  test("logits", async () => {
    expect(difference(await logitsOf(model, expected.input_ids), values("logits"))).toBeLessThan(1e-4);
  });

  test("logits of a left-padded batch, where there is a token", async () => {
    const isToken = (i: number) => attention_mask.flat()[Math.floor(i / model.config.vocab_size)] === 1;
    expect(difference(await logitsOf(model, input_ids, starts), values("padded_logits"), isToken)).toBeLessThan(1e-4);
  });

  test("greedy decoding with a cache: prompts of different lengths together, at every step as each alone", async () => {
    const decoder = await Decoder.create(device, model);
    const prompts = input_ids.map((row, i) => row.slice(starts[i]));
    const together = await decoder.start(prompts);
    const alone = await Promise.all(prompts.map((prompt) => decoder.start([prompt])));
    const chosen: number[][] = prompts.map(() => []);
    for (let step = 0; step < generated[0]!.length; step++) {
      const next = prompts.map((_, row) => {
        const logits = together.logits(row);
        expect(difference(logits, alone[row]!.logits())).toBeLessThan(1e-4);
        return logits.indexOf(Math.max(...logits));
      });
      for (const [row, id] of next.entries()) chosen[row]!.push(id);
      await together.push(next);
      for (const [row, id] of next.entries()) await alone[row]!.push([id]);
    }
    expect(chosen).toEqual(generated);
    await decoder.dispose();
  });

  test("low-rank adapters on all of its projections, fused and transposed ones too, learn, and merged compute the same", async () => {
    const adapted = loadCausalLM(directory);
    const ids = int64(expected.input_ids);
    const targets = int64(expected.input_ids.map((row) => [...row.slice(1), -100]));
    expectFalling(await lossesWithLora(adapted, "all-linear", causalLanguageModel(adapted), { ids, targets }));
    const before = await logitsOf(adapted, expected.input_ids, undefined, trainingDevice);
    expect(difference(before, values("logits"))).toBeGreaterThan(1e-3);
    mergeAdapters(adapted, trainingDevice);
    expect(difference(await logitsOf(adapted, expected.input_ids), before)).toBeLessThan(1e-4);
  });
});
