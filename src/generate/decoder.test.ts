import { afterAll, describe, expect, test } from "vitest";
import { Random, trace } from "../graph/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/families/llama.ts";
import { floats, type Linear } from "../nn/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { wasm } from "../runtime/web.ts";
import { beamSearch } from "./beam-search.ts";
import { Decoder } from "./decoder.ts";

const config = llamaConfigSchema.parse({
  vocab_size: 40,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 160,
  initializer_range: 0.3,
});
const device = cpu({ threads: 1 });
const model = new LlamaForCausalLM(config, 1).freeze();
const decoder = await Decoder.create(device, model);
const random = new Random(3);
const tokens = (length: number) => Array.from({ length }, () => random.integer(config.vocab_size));

afterAll(() => decoder.dispose());

/** Logits of the last token by a forward pass over everything. */
async function withoutCache(of: LlamaForCausalLM, ids: readonly number[]): Promise<Float32Array> {
  const program = await device.compile(
    trace({ ids: { dtype: "int64", shape: [1, ids.length] } }, ({ ids }) => ({ logits: of.logits(of.forward({ ids }).hidden) })),
  );
  const { logits } = await program.run({ ids: hostTensor("int64", [1, ids.length], BigInt64Array.from(ids, BigInt)) });
  await program.dispose();
  return (logits!.data as Float32Array).slice(-config.vocab_size);
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>) => Math.max(...Array.from(a, (v, i) => Math.abs(v - b[i]!)));

test("every step computes what a forward pass over the whole text computes, also where the cache has grown", async () => {
  const ids = tokens(5);
  const decoding = await decoder.start([ids]);
  expect(distance(decoding.logits(), await withoutCache(model, ids))).toBeLessThan(1e-5);
  while (ids.length < config.max_position_embeddings) {
    const next = random.integer(config.vocab_size);
    ids.push(next);
    await decoding.push([next]);
    if (ids.length < 9 || [63, 64, 65, 66, 127, 128, 129, 160].includes(ids.length))
      expect(distance(decoding.logits(), await withoutCache(model, ids))).toBeLessThan(2e-5);
  }
});

test("rows of different lengths go on as each would alone, at the prompt and at every step", async () => {
  const prompts = [tokens(3), tokens(12), tokens(1), tokens(7)];
  const continuation = prompts.map(() => tokens(70));
  const together = await decoder.start(prompts);
  const alone = await Promise.all(prompts.map((prompt) => decoder.start([prompt])));
  for (let step = 0; ; step++) {
    for (const [row, one] of alone.entries()) expect(distance(together.logits(row), one.logits())).toBeLessThan(2e-5);
    if (step === 70) break;
    await together.push(continuation.map((ids) => ids[step]!));
    for (const [row, one] of alone.entries()) await one.push([continuation[row]![step]!]);
  }
});

test("the same numbers on WebAssembly", async () => {
  const inBrowser = await Decoder.create(wasm({ threads: 1 }), model);
  const prompts = [tokens(3), tokens(9)];
  const [here, there] = [await decoder.start(prompts), await inBrowser.start(prompts)];
  for (let step = 0; ; step++) {
    for (const row of [0, 1]) expect(distance(here.logits(row), there.logits(row))).toBeLessThan(2e-5);
    if (step === 4) break;
    await here.push([step, 7]);
    await there.push([step, 7]);
  }
  await inBrowser.dispose();
});

test("a decoder over parameters that are trained follows them", async () => {
  const trained = new LlamaForCausalLM(config, 2);
  trained.model.embed_tokens.freeze();
  const ownDecoder = await Decoder.create(device, trained);
  const ids = tokens(6);
  expect(distance((await ownDecoder.start([ids])).logits(), await withoutCache(trained, ids))).toBeLessThan(1e-5);
  const weight = (trained.module("model.layers.0.self_attn.q_proj") as Linear).weight;
  const before = (await ownDecoder.start([ids])).logits();
  device.write(
    weight,
    (device.read(weight).data as Float32Array).map((v) => -v),
  );
  const decoding = await ownDecoder.start([ids]);
  expect(distance(decoding.logits(), before)).toBeGreaterThan(1e-3);
  await decoding.push([7]);
  expect(distance(decoding.logits(), await withoutCache(trained, [...ids, 7]))).toBeLessThan(1e-5);
  await ownDecoder.dispose();
});

describe("what cannot be decoded is refused", () => {
  const refusal = async (run: () => Promise<unknown>) => {
    const error = await run().then(
      () => undefined,
      (e: Error & { code?: string }) => e,
    );
    return `${error?.code}: ${error?.message}`;
  };

  test("a prompt without tokens", async () => {
    expect(await refusal(() => decoder.start([[1], []]))).toBe(
      "empty-prompt: Nothing can be continued: prompt 2 has no token. Give some text.",
    );
    expect(await refusal(() => decoder.start([]))).toContain("empty-prompt: There is no prompt");
  });

  test("a token that the model does not know", async () => {
    expect(await refusal(() => decoder.start([[1, 40]]))).toBe(
      "unknown-token-id: Token id 40 of the prompt is not in the model's vocabulary of 40. Is the tokenizer the model's own?",
    );
  });

  test("more tokens than the context holds", async () => {
    expect(await refusal(() => decoder.start([tokens(161)]))).toBe(
      "context-overflow: A prompt of 161 tokens does not fit the model's context of 160 tokens.",
    );
    const full = await decoder.start([tokens(160)]);
    expect(await refusal(() => full.push([1]))).toContain("context of 160 tokens is full");
  });

  test("another number of tokens than rows", async () => {
    const decoding = await decoder.start([[1], [2]]);
    expect(await refusal(() => decoding.push([1]))).toContain("2 were needed, 1 given");
  });
});

test("beam search says so when a model's logits are not numbers", async () => {
  const diverged = new LlamaForCausalLM(config, 1).freeze();
  const { weight } = diverged.model.norm;
  weight.storage = floats(weight.shape, new Float32Array(weight.shape[0]!).fill(Number.NaN));
  const broken = await Decoder.create(device, diverged);
  await expect(beamSearch(await broken.start([[1, 2]]), { beams: 2, endIds: [3] })).rejects.toThrow("not finite numbers (40 of 40 are NaN");
  await broken.dispose();
});
