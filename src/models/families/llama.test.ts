import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { bfloat16ToFloat32, float32ToBfloat16, openSafetensors, readJsonObject, readStorage } from "../../checkpoints/index.ts";
import { Decoder } from "../../generate/decoder.ts";
import { symbol, type Tensor, trace } from "../../graph/index.ts";
import { floats } from "../../nn/index.ts";
import { greaterOrEqual, lessOrEqual, logicalAnd, range, reshape } from "../../ops/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { loadCausalLM } from "../index.ts";
import type { LlamaForCausalLM } from "./llama.ts";

const fixtures = new URL("../../../tests/fixtures/", import.meta.url).pathname;
const device = cpu({ threads: 1 });
const loadLlama = (directory: string) => loadCausalLM(directory) as LlamaForCausalLM;

interface Expected {
  input_ids: number[][];
  padded: { input_ids: number[][]; attention_mask: number[][]; position_ids: number[][] };
  greedy: { generated: number[][] };
}

function fixture(name: string) {
  const { tensors } = openSafetensors(join(fixtures, name, "expected.safetensors"));
  return {
    ...(readJsonObject(join(fixtures, name, "expected.json")) as unknown as Expected),
    values: (key: string) => readStorage(tensors.get(key)!) as Float32Array,
  };
}

const int64 = (rows: readonly number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

/** The largest difference, over the elements that `counts`. */
function difference(got: ArrayLike<number>, expected: ArrayLike<number>, counts: (index: number) => boolean = () => true): number {
  expect(got.length).toBe(expected.length);
  let largest = 0;
  for (let i = 0; i < got.length; i++) if (counts(i)) largest = Math.max(largest, Math.abs(got[i]! - expected[i]!));
  return largest;
}

/** Logits of a batch, optionally with attention_mask and position_ids as transformers takes them, for sizes known at run time only. */
async function logitsOf(model: LlamaForCausalLM, ids: number[][], padding?: { attention_mask: number[][]; position_ids: number[][] }) {
  const type = { dtype: "int64", shape: [symbol("batch"), symbol("time")] } as const;
  const traced = trace({ ids: type, ...(padding && { attention_mask: type, position_ids: type }) }, (inputs) => {
    const { ids, attention_mask, position_ids } = inputs as { ids: Tensor; attention_mask?: Tensor; position_ids?: Tensor };
    const [batch, time] = type.shape;
    const causal = lessOrEqual(range(time), reshape(range(time), [time, 1]));
    const options = attention_mask && {
      visible: logicalAnd(causal, greaterOrEqual(reshape(attention_mask, [batch, 1, 1, time]), 1)),
      positions: position_ids!,
    };
    return { logits: model.logits(model.forward({ ids, ...options }).hidden) };
  });
  const program = await device.compile(traced);
  const { logits } = await program.run({
    ids: int64(ids),
    ...(padding && { attention_mask: int64(padding.attention_mask), position_ids: int64(padding.position_ids) }),
  });
  await program.dispose();
  return logits!.data as Float32Array;
}

describe.each(["llama-tiny", "llama-tiny-tied"])("%s computes what transformers computes", (name) => {
  const expected = fixture(name);
  const model = loadLlama(join(fixtures, name)).freeze();

  test("logits", async () => {
    expect(difference(await logitsOf(model, expected.input_ids), expected.values("logits"))).toBeLessThan(1e-5);
  });

  test("logits of a left-padded batch, where the mask is 1", async () => {
    const { input_ids, ...padding } = expected.padded;
    const counts = (i: number) => padding.attention_mask.flat()[Math.floor(i / model.config.vocab_size)] === 1;
    expect(difference(await logitsOf(model, input_ids, padding), expected.values("padded_logits"), counts)).toBeLessThan(1e-5);
  });

  test("greedy decoding with a cache", async () => {
    const decoder = await Decoder.create(device, model);
    const decoding = await decoder.start(expected.input_ids);
    const generated = expected.input_ids.map(() => [] as number[]);
    for (let step = 0; step < expected.greedy.generated[0]!.length; step++) {
      const chosen = generated.map((_, row) => {
        const logits = decoding.logits(row);
        return logits.indexOf(Math.max(...logits));
      });
      for (const [row, id] of chosen.entries()) generated[row]!.push(id);
      await decoding.push(chosen);
    }
    expect(generated).toEqual(expected.greedy.generated);
    await decoder.dispose();
  });
});

test("llama-tiny-tied: hidden states of the embedding, the first layer and the last norm", async () => {
  const expected = fixture("llama-tiny-tied");
  const model = loadLlama(join(fixtures, "llama-tiny-tied")).freeze();
  const shape = [expected.input_ids.length, expected.input_ids[0]!.length];
  const seen: Record<string, Tensor> = {};
  const [first] = model.model.layers;
  const forward = first!.forward;
  first!.forward = (...args) => {
    const result = forward(...args);
    seen.state1 = result.y;
    return result;
  };
  const traced = trace({ ids: { dtype: "int64", shape } }, ({ ids }) => {
    seen.state0 = model.model.embed_tokens.forward(ids);
    seen.state2 = model.forward({ ids }).hidden;
    return seen;
  });
  const states = await (await device.compile(traced)).run({ ids: int64(expected.input_ids) });
  for (const i of [0, 1, 2])
    expect(difference(states[`state${i}`]!.data as Float32Array, expected.values(`hidden_states.${i}`))).toBeLessThan(1e-5);
});

test("shards in bfloat16 compute what the same weights rounded in float32 compute", async () => {
  const { input_ids } = fixture("llama-tiny");
  const rounded = loadLlama(join(fixtures, "llama-tiny")).freeze();
  for (const parameter of rounded.parameters()) {
    const values = readStorage(parameter.storage) as Float32Array;
    parameter.storage = floats(parameter.shape, bfloat16ToFloat32(float32ToBfloat16(values)));
  }
  const sharded = loadLlama(join(fixtures, "llama-tiny-sharded-bf16")).freeze();
  expect(await logitsOf(sharded, input_ids)).toEqual(await logitsOf(rounded, input_ids));
});

test("weights that are not frozen are read from the device at each run", async () => {
  const expected = fixture("llama-tiny");
  const model = loadLlama(join(fixtures, "llama-tiny"));
  expect(difference(await logitsOf(model, expected.input_ids), expected.values("logits"))).toBeLessThan(1e-5);
  const head = model.lm_head!.weight;
  device.write(
    head,
    (device.read(head).data as Float32Array).map((v) => v * 2),
  );
  const doubled = await logitsOf(model, expected.input_ids);
  expect(
    difference(
      doubled,
      expected.values("logits").map((v) => v * 2),
    ),
  ).toBeLessThan(2e-5);
});
