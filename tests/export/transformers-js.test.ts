/** What transformers.js makes of exported directories is what we make of the models themselves, token by token. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AutoModel, AutoModelForCausalLM, env, pipeline, Tensor } from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openSafetensors, readJsonObject, readStorage } from "../../src/checkpoints/index.ts";
import { Decoder, generate } from "../../src/generate/index.ts";
import { tokenizerFromDirectory } from "../../src/inputs/text/tokenizer-directory.ts";
import { exportOnnx, loadCausalLM, loadSentenceEncoder } from "../../src/models/index.ts";
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
