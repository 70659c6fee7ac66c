/** What transformers.js makes of exported directories is what we make of the models themselves, token by token. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoModel,
  AutoModelForCausalLM,
  AutoModelForImageClassification,
  AutoModelForSeq2SeqLM,
  AutoModelForSpeechSeq2Seq,
  env,
  pipeline,
  Tensor,
} from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSafetensors, readJsonObject, readStorage } from "../../src/checkpoints/index.ts";
import { Decoder, generate } from "../../src/generate/index.ts";
import { tokenizerFromDirectory } from "../../src/inputs/text/tokenizer-directory.ts";
import { adapterInputs, loadAdapter } from "../../src/methods/index.ts";
import {
  exportOnnx,
  loadCausalLM,
  loadImageClassifier,
  loadSentenceEncoder,
  loadSeq2SeqLM,
  loadSpeechSeq2Seq,
} from "../../src/models/index.ts";
import { cpu } from "../../src/runtime/node.ts";

const device = cpu({ threads: 1 });
const scratch = mkdtempSync(join(tmpdir(), "espalier-transformers-js-"));
const session_options = { intraOpNumThreads: 1 };
beforeAll(() => {
  env.allowRemoteModels = false;
  env.localModelPath = scratch;
});
afterAll(async () => {
  await device.dispose();
  rmSync(scratch, { recursive: true, force: true });
});

const fixture = (name: string) => new URL(`../fixtures/${name}`, import.meta.url).pathname;
const int64 = (rows: readonly (readonly number[])[]) =>
  new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);

describe("sapling", () => {
  const source = new URL("../../models/sapling", import.meta.url).pathname;
  const prompts = ["The meeting is", "Please find attached the file that you asked", "1. "];
  const maxNewTokens = 24;
  let ours: { prompt: string; ids: number[] }[];

  beforeAll(async () => {
    const model = loadCausalLM(source).freeze();
    exportOnnx(join(scratch, "sapling"), model, { source, dtypes: ["f32", "f16", "int8"] });
    const decoder = await Decoder.create(device, model);
    const tokenizer = await tokenizerFromDirectory(source);
    ours = [];
    for (const prompt of prompts) {
      const { ids } = await generate(decoder, tokenizer, prompt, { maxNewTokens, temperature: 0 }).result();
      ours.push({ prompt, ids: [...ids] });
    }
    await decoder.dispose();
  });

  test.each([
    ["fp32", 1],
    ["fp16", 0.9],
    ["q8", 0.7],
  ] as const)("%s: texts continued by a pipeline, alone and together", async (dtype, agreement) => {
    const generator = await pipeline("text-generation", "sapling", { dtype, session_options });
    generator.tokenizer.padding_side = "left"; // as the pipeline itself does for texts
    const written = async (texts: string[]) => {
      const batch = generator.tokenizer(texts, { padding: true });
      const ids = (await generator.model.generate({ ...batch, max_new_tokens: maxNewTokens, do_sample: false })) as Tensor;
      const time = batch.input_ids.dims[1];
      return (ids.tolist() as bigint[][]).map((row) => row.slice(time).map(Number));
    };
    const alone = [];
    for (const prompt of prompts) alone.push((await written([prompt]))[0]!);
    const together = await written(prompts);
    const texts = (await generator(prompts[0]!, { max_new_tokens: maxNewTokens, do_sample: false })) as { generated_text: string }[];
    await generator.dispose();
    const expected = ours.map(({ ids }) => ids);
    const share = (rows: number[][]) => {
      const same = rows.flatMap((row, i) => expected[i]!.map((id, at) => row[at] === id));
      return same.filter(Boolean).length / same.length;
    };
    if (agreement === 1) {
      expect(alone).toEqual(expected);
      expect(together).toEqual(expected);
      expect(texts[0]!.generated_text).toBe(prompts[0] + generator.tokenizer.decode(expected[0]!, { skip_special_tokens: true }));
    } else {
      expect(share(alone)).toBeGreaterThanOrEqual(agreement);
      expect(share(together)).toBeGreaterThanOrEqual(agreement);
    }
  });
});

interface Expected {
  padded: { input_ids: number[][]; attention_mask: number[][]; generated: number[][] };
}

// Rotary and windows, learned positions, ALiBi; Gemma's positions count from 1 there.
test.each(["decoder-mistral", "decoder-gpt2", "decoder-bloom", "decoder-gemma3", "decoder-opt"])(
  "%s writes from left-padded rows what transformers writes",
  async (name) => {
    const { padded } = readJsonObject(join(fixture(name), "expected.json")) as unknown as Expected;
    exportOnnx(join(scratch, name), loadCausalLM(fixture(name)).freeze(), { source: fixture(name) });
    const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: "fp32", session_options });
    const ids = (await model.generate({
      input_ids: int64(padded.input_ids),
      attention_mask: int64(padded.attention_mask),
      max_new_tokens: padded.generated[0]!.length,
      do_sample: false,
      eos_token_id: null,
    } as never)) as Tensor;
    const written = (ids.tolist() as bigint[][]).map((row) => row.slice(padded.input_ids[0]!.length).map(Number));
    await model.dispose();
    expect(written).toEqual(padded.generated);
  },
);

interface ExpectedSeq2Seq {
  input_ids: number[][];
  attention_mask: number[][];
  greedy: number[][];
}

test.each(["seq2seq-t5", "seq2seq-flan-t5", "seq2seq-bart"])(
  "%s answers a padded batch as transformers answers each text",
  async (name) => {
    const { input_ids, attention_mask, greedy } = readJsonObject(join(fixture(name), "expected.json")) as unknown as ExpectedSeq2Seq;
    exportOnnx(join(scratch, name), loadSeq2SeqLM(fixture(name)).freeze(), { source: fixture(name) });
    const model = await AutoModelForSeq2SeqLM.from_pretrained(name, { dtype: "fp32", session_options });
    const feeds = { input_ids: int64(input_ids), attention_mask: int64(attention_mask) };
    const ids = (await model.generate({ ...feeds, max_new_tokens: 12, do_sample: false } as never)) as Tensor;
    await model.dispose();
    // A row that has ended goes on until all have.
    const written = (ids.tolist() as bigint[][]).map((row, i) => row.slice(1, 1 + greedy[i]!.length).map(Number));
    expect(written).toEqual(greedy);
  },
);

test("Whisper writes after forced tokens what transformers writes", async () => {
  const name = "whisper-tiny";
  const { greedy } = readJsonObject(join(fixture(name), "expected.json")) as { greedy: { forced: number[]; generated: number[][] } };
  const features = openSafetensors(join(fixture(name), "expected.safetensors")).tensors.get("input.input_features")!;
  const ours = loadSpeechSeq2Seq(fixture(name)).freeze();
  exportOnnx(join(scratch, name), ours, { source: fixture(name) });
  const model = await AutoModelForSpeechSeq2Seq.from_pretrained(name, { dtype: "fp32", session_options });
  const ids = (await model.generate({
    inputs: new Tensor("float32", readStorage(features) as Float32Array, features.shape as number[]),
    decoder_input_ids: greedy.generated.map(() => [ours.startId, ...greedy.forced]),
    max_new_tokens: greedy.generated[0]!.length,
    do_sample: false,
    eos_token_id: null,
  } as never)) as Tensor;
  await model.dispose();
  expect((ids.tolist() as bigint[][]).map((row) => row.slice(1 + greedy.forced.length).map(Number))).toEqual(greedy.generated);
});

test("an adapter that is fed: the graph writes what the adapted model writes", async () => {
  const source = fixture("llama-tiny");
  const { input_ids } = readJsonObject(join(fixture("llama-tiny-lora"), "expected.json")) as { input_ids: number[][] };
  const maxNewTokens = 16;
  const adapted = loadCausalLM(source).freeze();
  loadAdapter(adapted, fixture("llama-tiny-lora"));
  const { inputOf, tensors } = adapterInputs(adapted);
  exportOnnx(join(scratch, "adapted"), adapted, { source, inputOf });
  const decoder = await Decoder.create(device, adapted);
  const decoding = await decoder.start(input_ids);
  const expected: number[][] = input_ids.map(() => []);
  for (let step = 0; step < maxNewTokens; step++) {
    const next = expected.map((_, row) => decoding.logits(row)).map((logits) => logits.indexOf(Math.max(...logits)));
    for (const [row, id] of next.entries()) expected[row]!.push(id);
    await decoding.push(next);
  }
  await decoder.dispose();

  const model = await AutoModelForCausalLM.from_pretrained("adapted", { dtype: "fp32", session_options });
  const fed = Object.fromEntries(
    Array.from(tensors, ([key, { data, shape }]) => [key, new Tensor("float32", data as Float32Array, [...shape])]),
  );
  model.forward_params.push(...Object.keys(fed));
  const feeds = { input_ids: int64(input_ids), attention_mask: int64(input_ids.map((row) => row.map(() => 1))), ...fed };
  const ids = (await model.generate({ ...feeds, max_new_tokens: maxNewTokens, do_sample: false, eos_token_id: null } as never)) as Tensor;
  await model.dispose();
  expect((ids.tolist() as bigint[][]).map((row) => row.slice(input_ids[0]!.length).map(Number))).toEqual(expected);
});

test("an encoder gives its states", async () => {
  const name = "encoder-bert-bare";
  const { input_ids, attention_mask } = readJsonObject(join(fixture(name), "expected.json")) as Record<string, number[][]>;
  const expected = readStorage(openSafetensors(join(fixture(name), "expected.safetensors")).tensors.get("output")!) as Float32Array;
  exportOnnx(join(scratch, name), loadSentenceEncoder(fixture(name)).freeze(), { source: fixture(name), external: true });
  const model = await AutoModel.from_pretrained(name, { dtype: "fp32", session_options });
  const { last_hidden_state } = await model({ input_ids: int64(input_ids!), attention_mask: int64(attention_mask!) });
  await model.dispose();
  const states = last_hidden_state.data as Float32Array;
  const width = states.length / attention_mask!.flat().length;
  for (const [i, m] of attention_mask!.flat().entries())
    for (let k = i * width; k < (i + m) * width; k++) expect(states[k]).toBeCloseTo(expected[k]!, 4);
});

test("a classifier of images gives its logits", async () => {
  const { tensors } = openSafetensors(join(fixture("vit-tiny"), "expected.safetensors"));
  const [pixels, expected] = ["input.pixel_values", "logits"].map((key) => tensors.get(key)!);
  exportOnnx(join(scratch, "vit-tiny"), loadImageClassifier(fixture("vit-tiny")).freeze(), { source: fixture("vit-tiny") });
  const model = await AutoModelForImageClassification.from_pretrained("vit-tiny", { dtype: "fp32", session_options });
  const { logits } = await model({ pixel_values: new Tensor("float32", readStorage(pixels!) as Float32Array, [...pixels!.shape]) });
  await model.dispose();
  for (const [i, v] of (readStorage(expected!) as Float32Array).entries()) expect(logits.data[i]).toBeCloseTo(v, 4);
});
