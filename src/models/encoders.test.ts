/** Every family of text encoders computes what transformers computes, on tiny random checkpoints that it wrote, with padding and token types. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../tests/models/adapt.ts";
import { openSafetensors, readJsonObject, readStorage } from "../checkpoints/index.ts";
import { refusal } from "../checkpoints/refusal.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { TokenEmbedding } from "../methods/adapters/token-embedding.ts";
import { floats, type Parameter } from "../nn/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { maskedLanguageModel } from "../train/index.ts";
import { type EncoderInputs, loadMaskedLM, loadSentenceEncoder, loadSequenceClassifier, loadTokenClassifier, saveModel } from "./index.ts";

const device = cpu({ threads: 1 });
const scratch = mkdtempSync(join(tmpdir(), "espalier-encoders-"));
afterAll(async () => {
  await device.dispose();
  rmSync(scratch, { recursive: true, force: true });
});

const fixture = (name: string) => new URL(`../../tests/fixtures/encoder-${name}`, import.meta.url).pathname;
const labels = ["a", "b", "c"];

interface Expected {
  input_ids: number[][];
  attention_mask: number[][];
  token_type_ids: number[][] | null;
}

const int64 = (rows: readonly number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

function expectation(name: string) {
  const expected = readJsonObject(join(fixture(name), "expected.json")) as unknown as Expected;
  const { tensors } = openSafetensors(join(fixture(name), "expected.safetensors"));
  const values = (key: string) => readStorage(tensors.get(key)!) as Float32Array;
  return { ...expected, values };
}

/** Runs what a model makes of the fixture's batch. */
async function run(forward: (inputs: EncoderInputs) => Tensor, { input_ids, attention_mask }: Expected, tokenTypes?: number[][]) {
  const feeds = { ids: int64(input_ids), attentionMask: int64(attention_mask), ...(tokenTypes && { tokenTypes: int64(tokenTypes) }) };
  const program = await device.compile(trace(feeds, (inputs) => ({ y: forward(inputs as unknown as EncoderInputs) })));
  const { y } = await program.run(feeds);
  await program.dispose();
  return y!.data as Float32Array;
}

/** The largest difference, over the rows of `width` numbers that belong to tokens. */
function difference(got: Float32Array, expected: Float32Array, mask?: number[][]): number {
  expect(got.length).toBe(expected.length);
  const flat = mask?.flat() ?? [1];
  const width = got.length / flat.length;
  return got.reduce((largest, v, i) => (flat[Math.floor(i / width)] === 1 ? Math.max(largest, Math.abs(v - expected[i]!)) : largest), 0);
}

test("a masked language model's head sees rows of the embedding that are trained in their place", async () => {
  const expected = expectation("bert");
  const model = loadMaskedLM(fixture("bert")).freeze();
  const tokens = new TokenEmbedding(model.encoder.embedding, [7]);
  const width = tokens.weight.shape[1]!;
  tokens.token_adapter.trainable_tokens_delta.storage = floats([1, width], new Float32Array(width));
  model.replace("bert.embeddings.word_embeddings", tokens);
  model.assignNames();
  const got = await run((inputs) => model.logits(model.forward(inputs).hidden), expected);
  const { bias } = model.module("cls.predictions") as unknown as { bias: Parameter };
  const biases = readStorage(bias.storage, "float32") as Float32Array;
  expect(got[7]).toBeCloseTo(biases[7]!, 6);
  expect(got[8]).not.toBeCloseTo(biases[8]!, 3);
});

const maskedLM = (directory: string) => {
  const model = loadMaskedLM(directory).freeze();
  return (inputs: EncoderInputs) => model.logits(model.forward(inputs).hidden);
};

describe.each(["bert", "roberta", "xlm-roberta", "distilbert", "electra"])("%s", (name) => {
  test("logits of masked tokens", async () => {
    const expected = expectation(name);
    const forward = maskedLM(fixture(name));
    expect(difference(await run(forward, expected), expected.values("output"), expected.attention_mask)).toBeLessThan(1e-4);
    if (!expected.token_type_ids) return;
    const typed = await run(forward, expected, expected.token_type_ids);
    expect(difference(typed, expected.values("typed"), expected.attention_mask)).toBeLessThan(1e-4);
  });

  test("logits of tokens", async () => {
    const expected = expectation(`${name}-tokcls`);
    const model = loadTokenClassifier(fixture(`${name}-tokcls`), labels).freeze();
    expect(model.headIsFresh).toBe(false);
    expect(difference(await run((i) => model.forward(i), expected), expected.values("output"), expected.attention_mask)).toBeLessThan(1e-4);
  });

  test("logits of sequences, whose padding is told by their lengths", async () => {
    const expected = expectation(`${name}-seqcls`);
    const model = loadSequenceClassifier(fixture(`${name}-seqcls`), labels).freeze();
    expect(model.headIsFresh).toBe(false);
    const lengths = expected.attention_mask.map((row) => row.reduce((a, b) => a + b));
    const feeds = { ids: int64(expected.input_ids), lengths: hostTensor("int64", [lengths.length], BigInt64Array.from(lengths, BigInt)) };
    const program = await device.compile(trace(feeds, ({ ids, lengths }) => ({ y: model.forward(ids, lengths) })));
    expect(difference((await program.run(feeds)).y!.data as Float32Array, expected.values("output"))).toBeLessThan(1e-4);
    await program.dispose();
  });

  test("a classifier from a masked language model has a fresh head", () => {
    const model = loadSequenceClassifier(fixture(name), labels);
    expect(model.headIsFresh).toBe(true);
    expect(model.architecture).toMatch(/ForSequenceClassification$/);
  });

  test("low-rank adapters on all of its projections learn", async () => {
    const { input_ids, attention_mask } = expectation(name);
    const model = loadMaskedLM(fixture(name));
    const targets = input_ids.map((row, i) => row.map((id, j) => (attention_mask[i]![j] === 1 && j % 3 === 0 ? id : -100)));
    const batch = { ids: int64(input_ids), attentionMask: int64(attention_mask), targets: int64(targets) };
    expectFalling(await lossesWithLora(model, "all-linear", maskedLanguageModel(model), batch));
  });

  test("what is saved loads again", async () => {
    const expected = expectation(name);
    const directory = join(scratch, name);
    saveModel(directory, loadMaskedLM(fixture(name)), { source: fixture(name) });
    expect(difference(await run(maskedLM(directory), expected), expected.values("output"), expected.attention_mask)).toBeLessThan(1e-4);
  });
});

describe("sentence vectors", () => {
  const expected = expectation("bert-bare");
  const states = expected.values("output");
  const width = states.length / expected.input_ids.flat().length;
  const state = (row: number, column: number) => states.subarray((row * 10 + column) * width, (row * 10 + column + 1) * width);
  const vectors = async (directory: string) => {
    const model = loadSentenceEncoder(directory).freeze();
    return run((inputs) => model.forward(inputs), expected);
  };
  const pooled = (row: number, pool: (values: number[]) => number) => {
    const columns = expected.attention_mask[row]!.flatMap((m, i) => (m === 1 ? [i] : []));
    return Array.from({ length: width }, (_, i) => pool(columns.map((c) => state(row, c)[i]!)));
  };
  const mean = (values: number[]) => values.reduce((a, b) => a + b) / values.length;

  function withPooling(mode: string, normalize: boolean): string {
    const directory = mkdtempSync(join(scratch, "pooling-"));
    cpSync(fixture("bert-bare"), directory, { recursive: true });
    mkdirSync(join(directory, "1_Pooling"));
    writeFileSync(
      join(directory, "1_Pooling", "config.json"),
      JSON.stringify({ word_embedding_dimension: width, [`pooling_mode_${mode}`]: true }),
    );
    const modules = normalize ? [{ idx: 2, type: "sentence_transformers.models.Normalize" }] : [];
    writeFileSync(join(directory, "modules.json"), JSON.stringify(modules));
    return directory;
  }

  test("the mean of the tokens' states, of length 1, when nothing says otherwise", async () => {
    const got = await vectors(fixture("bert-bare"));
    const means = [0, 1].map((row) => pooled(row, mean));
    const unit = means.flatMap((v) => v.map((x) => x / Math.hypot(...v)));
    expect(difference(got, Float32Array.from(unit))).toBeLessThan(1e-5);
  });

  test("as 1_Pooling and modules.json say", async () => {
    const rows = (pool: (values: number[]) => number) => Float32Array.from([0, 1].flatMap((row) => pooled(row, pool)));
    expect(difference(await vectors(withPooling("mean_tokens", false)), rows(mean))).toBeLessThan(1e-4);
    expect(
      difference(
        await vectors(withPooling("max_tokens", false)),
        rows((v) => Math.max(...v)),
      ),
    ).toBeLessThan(1e-4);
    expect(
      difference(
        await vectors(withPooling("cls_token", false)),
        rows((v) => v[0]!),
      ),
    ).toBeLessThan(1e-4);
    expect(Math.hypot(...(await vectors(withPooling("max_tokens", true))).subarray(0, width))).toBeCloseTo(1, 5);
  });

  test("another pooling is refused, and another module", () => {
    expect(refusal(() => loadSentenceEncoder(withPooling("weightedmean_tokens", false)), scratch).code).toBe("unsupported-pooling");
    const directory = withPooling("cls_token", true);
    writeFileSync(join(directory, "modules.json"), JSON.stringify([{ idx: 2, type: "sentence_transformers.models.Dense" }]));
    expect(refusal(() => loadSentenceEncoder(directory), scratch)).toMatchObject({
      code: "unsupported-pooling",
      message: expect.stringContaining('modules.json: has the module "Dense"'),
    });
  });

  test.each([
    ["cls_token", false],
    ["max_tokens", true],
    ["mean_tokens", false],
  ] as const)("is saved: %s, length 1: %s", async (mode, normalize) => {
    const source = withPooling(mode, normalize);
    const directory = join(scratch, `saved-${mode}`);
    const model = loadSentenceEncoder(source);
    saveModel(directory, model, { source });
    const saved = loadSentenceEncoder(directory);
    expect([saved.pooling, saved.normalize, saved.width]).toEqual([model.pooling, normalize, width]);
    expect(difference(await vectors(directory), await vectors(source))).toBe(0);
  });
});
