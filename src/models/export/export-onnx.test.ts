/** Exported graphs, run by plain ONNX Runtime, compute what transformers computes; nothing of ours is in between. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { InferenceSession } from "onnxruntime-common";
import { afterAll, describe, expect, test } from "vitest";
import { onnx } from "../../../tests/onnx-proto.ts";
import { openSafetensors, readJsonObject, readStorage } from "../../checkpoints/index.ts";
import { refusal } from "../../checkpoints/refusal.ts";
import type { Linear } from "../../nn/index.ts";
import { cpu } from "../../runtime/node.ts";
import {
  type ExportableModel,
  type ExportDtype,
  type ExportedOnnx,
  type ExportOnnxOptions,
  exportDtypes,
  exportOnnx,
  loadCausalLM,
  loadMaskedLM,
  loadSentenceEncoder,
  loadSequenceClassifier,
  loadTokenClassifier,
} from "../index.ts";

const device = cpu({ threads: 1 });
const scratch = mkdtempSync(join(tmpdir(), "espalier-export-"));
afterAll(async () => {
  await device.dispose();
  rmSync(scratch, { recursive: true, force: true });
});

const ort = device.platform.ort;
const fixture = (name: string) => new URL(`../../../tests/fixtures/${name}`, import.meta.url).pathname;
const open = (file: string): Promise<InferenceSession> => ort.InferenceSession.create(file, { intraOpNumThreads: 1 });
const int64 = (rows: readonly (readonly number[])[]) =>
  new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);

function expectation<T>(name: string) {
  const { tensors } = openSafetensors(join(fixture(name), "expected.safetensors"));
  return {
    ...(readJsonObject(join(fixture(name), "expected.json")) as T),
    values: (key: string) => readStorage(tensors.get(key)!) as Float32Array,
  };
}

/** The largest difference, over the rows of equal length whose mask is 1. */
function difference(got: Float32Array, expected: Float32Array, mask: readonly number[] = [1]): number {
  expect(got.length).toBe(expected.length);
  const width = got.length / mask.length;
  return got.reduce((largest, v, i) => (mask[Math.floor(i / width)] === 1 ? Math.max(largest, Math.abs(v - expected[i]!)) : largest), 0);
}

/** As transformers counts them: padding has place 1. */
const positionsOf = (mask: readonly (readonly number[])[], from = 0): number[][] =>
  mask.map((row) => {
    let place = from - 1;
    return row.map((m) => (m === 1 ? ++place : 1));
  });

type Past = Record<string, InferenceSession.OnnxValueMapType[string]>;

/** One run of a decoder's graph. */
async function decode(
  session: InferenceSession,
  ids: readonly (readonly number[])[],
  mask: readonly (readonly number[])[],
  past?: Past,
  from = 0,
) {
  const time = ids[0]!.length;
  const feeds: Past = {
    input_ids: int64(ids),
    attention_mask: int64(mask),
    position_ids: int64(positionsOf(mask, from).map((row) => row.slice(-time))),
  };
  for (const { name, ...meta } of session.inputMetadata)
    if (name.startsWith("past_key_values") && meta.isTensor) {
      const shape = meta.shape.map((d) => (typeof d === "number" ? d : d === "batch_size" ? ids.length : 0));
      feeds[name] = past?.[name] ?? new ort.Tensor("float32", new Float32Array(0), shape);
    }
  const results = await session.run(feeds);
  const present = Object.entries(results).filter(([name]) => name.startsWith("present"));
  return {
    logits: results.logits!.data as Float32Array,
    past: Object.fromEntries(present.map(([name, value]) => [name.replace("present", "past_key_values"), value])),
  };
}

const exported = (name: string, dtype: ExportDtype = "f32", options: ExportOnnxOptions = {}) => {
  const directory = join(scratch, `${name}-${dtype}`);
  return exportOnnx(directory, loadCausalLM(fixture(name)).freeze(), { source: fixture(name), dtypes: [dtype], ...options })[0]!.file;
};

interface Generated {
  input_ids: number[][];
  padded: { input_ids: number[][]; attention_mask: number[][]; generated: number[][] };
}

const decoders = ["llama3-rope", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "phi3", "phi3-longrope", "gpt2", "gpt-neox"];
decoders.push("gpt-neox-sequential", "opt", "opt-post-norm", "bloom");

describe.each(decoders.map((name) => `decoder-${name}`))("%s", (name) => {
  const expected = expectation<Generated>(name);
  const { input_ids, attention_mask, generated } = expected.padded;
  const vocabulary = expected.values("logits").length / expected.input_ids.flat().length;

  test("one graph reads left-padded prompts and writes as transformers does", async () => {
    const file = exported(name);
    const session = await open(file);
    const whole = await decode(
      session,
      expected.input_ids,
      expected.input_ids.map((row) => row.map(() => 1)),
    );
    expect(difference(whole.logits, expected.values("logits"))).toBeLessThan(1e-4);

    // Places may be counted from any number: transformers.js counts Gemma's from 1, and learned ones count from 0.
    const from = name.includes("gemma") ? 1 : 0;
    const mask = attention_mask.map((row) => [...row]);
    let { logits, past } = await decode(session, input_ids, mask, undefined, from);
    expect(difference(logits, expected.values("padded_logits"), mask.flat())).toBeLessThan(1e-4);
    const written: number[][] = mask.map(() => []);
    for (let step = 0; step < generated[0]!.length; step++) {
      // Logits of the prompt are those of all its tokens, a step's of one.
      const row = logits.length / mask.length;
      const next = mask.map((_, i) => {
        const last = logits.subarray((i + 1) * row - vocabulary, (i + 1) * row);
        return last.indexOf(Math.max(...last));
      });
      for (const [i, id] of next.entries()) {
        written[i]!.push(id);
        mask[i]!.push(1);
      }
      ({ logits, past } = await decode(
        session,
        next.map((id) => [id]),
        mask,
        past,
        from,
      ));
    }
    expect(written).toEqual(generated);
    await session.release();

    const { graph } = onnx.ModelProto.decode(readFileSync(file));
    expect(graph!.node!.filter((n) => n.domain !== "")).toEqual([]);
  });

  test.each([
    ["f16", 5e-3, 0.6],
    ["int8", 0.15, 0.35],
  ] as const)("%s: a smaller file and nearby logits", async (dtype, tolerance, size) => {
    const file = exported(name, dtype);
    const session = await open(file);
    const { logits } = await decode(session, input_ids, attention_mask);
    const reference = expected.values("padded_logits");
    const scale = reference.reduce((largest, v) => Math.max(largest, Math.abs(v)), 0);
    expect(difference(logits, reference, attention_mask.flat()) / scale).toBeLessThan(tolerance);
    await session.release();
    // What a graph itself takes is most of such a small model's file.
    const weights = (path: string) =>
      onnx.ModelProto.decode(readFileSync(path)).graph!.initializer!.reduce((n, t) => n + t.rawData!.length, 0);
    expect(weights(file) / weights(exported(name))).toBeLessThan(size);
  });
});

interface EncoderExpectation {
  input_ids: number[][];
  attention_mask: number[][];
  token_type_ids: number[][] | null;
}
const labels = ["a", "b", "c"];

/** What an exported encoder makes of its fixture's batch; the inputs are those that it asks for. */
async function encode(name: string, model: ExportableModel, tokenTypes = false) {
  const expected = expectation<EncoderExpectation>(name);
  const [{ file }] = exportOnnx(join(scratch, name), model, { source: fixture(name) }) as [ExportedOnnx];
  const session = await open(file);
  const { input_ids, attention_mask, token_type_ids } = expected;
  const feeds: Past = { input_ids: int64(input_ids), attention_mask: int64(attention_mask) };
  if (session.inputNames.includes("token_type_ids"))
    feeds.token_type_ids = int64(tokenTypes && token_type_ids ? token_type_ids : input_ids.map((row) => row.map(() => 0)));
  expect(Object.keys(feeds)).toEqual(session.inputNames);
  const results = await session.run(feeds);
  await session.release();
  return { ...expected, inputs: session.inputNames, results };
}

describe.each(["bert", "roberta", "xlm-roberta", "distilbert", "electra"])("encoder-%s", (family) => {
  const name = `encoder-${family}`;

  test("masked tokens, with token types where the model tells them apart", async () => {
    const model = loadMaskedLM(fixture(name)).freeze();
    const { results, values, attention_mask, token_type_ids, inputs } = await encode(name, model);
    expect(difference(results.logits!.data as Float32Array, values("output"), attention_mask.flat())).toBeLessThan(1e-4);
    expect(inputs.includes("token_type_ids")).toBe(family === "bert" || family === "electra");
    if (!token_type_ids) return;
    const typed = await encode(name, model, true);
    expect(difference(typed.results.logits!.data as Float32Array, values("typed"), attention_mask.flat())).toBeLessThan(1e-4);
  });

  test("classes of tokens and of sequences", async () => {
    const tokens = await encode(`${name}-tokcls`, loadTokenClassifier(fixture(`${name}-tokcls`), labels).freeze());
    expect(difference(tokens.results.logits!.data as Float32Array, tokens.values("output"), tokens.attention_mask.flat())).toBeLessThan(
      1e-4,
    );
    const sequences = await encode(`${name}-seqcls`, loadSequenceClassifier(fixture(`${name}-seqcls`), labels).freeze());
    expect(difference(sequences.results.logits!.data as Float32Array, sequences.values("output"))).toBeLessThan(1e-4);
  });
});

test("an encoder without a head gives states and sentence vectors", async () => {
  const { results, values, attention_mask } = await encode("encoder-bert-bare", loadSentenceEncoder(fixture("encoder-bert-bare")).freeze());
  expect(difference(results.last_hidden_state!.data as Float32Array, values("output"), attention_mask.flat())).toBeLessThan(1e-4);
  const vectors = results.sentence_embedding!.data as Float32Array;
  expect(Math.hypot(...vectors.subarray(0, vectors.length / attention_mask.length))).toBeCloseTo(1, 5);
});

describe("the directory", () => {
  const source = fixture("llama-tiny-tied");
  const model = () => loadCausalLM(source).freeze();

  test("holds the configuration, the token ids of generation, and one tensor for a tied head", () => {
    const directory = join(scratch, "tied");
    const sizes = exportOnnx(directory, model(), { source, dtypes: ["f32", "int8"] }).map(({ file, data }) => {
      const initializers = onnx.ModelProto.decode(readFileSync(file)).graph!.initializer!;
      const tables = initializers.filter((t) => t.dims!.map(Number).includes(128) && t.dims!.length === 2);
      expect([data, tables.map((t) => t.name)]).toEqual([undefined, ["model.embed_tokens.weight"]]);
      return tables[0]!.dataType;
    });
    expect(sizes).toEqual([1, 3]);
    const config = readJsonObject(join(directory, "config.json"));
    expect(config).toMatchObject({ model_type: "llama", architectures: ["LlamaForCausalLM"], "transformers.js_config": {} });
    exportOnnx(join(scratch, "only"), model(), { source, dtypes: ["int8"] });
    expect(readJsonObject(join(scratch, "only", "config.json"))["transformers.js_config"]).toEqual({ dtype: "q8" });
    expect(readJsonObject(join(directory, "generation_config.json"))).toMatchObject({ eos_token_id: config.eos_token_id });
  });

  test("weights beside the graph compute the same, and the configuration tells of them for as long as they are there", async () => {
    const directory = join(scratch, "beside");
    const expected = expectation<Generated>("llama-tiny-tied");
    const logits = async (file: string) => {
      const session = await open(file);
      const result = await decode(
        session,
        expected.input_ids,
        expected.input_ids.map((row) => row.map(() => 1)),
      );
      await session.release();
      return result.logits;
    };
    const told = () => readJsonObject(join(directory, "config.json"))["transformers.js_config"];
    for (const dtype of exportDtypes) {
      const [one] = exportOnnx(directory, model(), { source, dtypes: [dtype], external: true }) as [ExportedOnnx];
      expect(one.data).toEqual({ file: `${one.file}_data`, byteLength: statSync(`${one.file}_data`).size });
      const [inside] = exportOnnx(join(scratch, "inside"), model(), { source, dtypes: [dtype] }) as [ExportedOnnx];
      expect(difference(await logits(one.file), await logits(inside.file))).toBe(0);
    }
    expect(told()).toEqual({ use_external_data_format: { "model.onnx": 1, "model_fp16.onnx": 1, "model_quantized.onnx": 1 } });
    exportOnnx(directory, model(), { source, dtypes: ["f32", "int8"] });
    expect(told()).toEqual({ use_external_data_format: { "model_fp16.onnx": 1 } });
    expect(existsSync(join(directory, "onnx", "model.onnx_data"))).toBe(false);
  });

  test("does not come to be where a weight does not fit its type, and says which", () => {
    const broken = (value: number) => {
      const loaded = model();
      const { weight } = loaded.module("model.layers.1.mlp.up_proj") as Linear;
      const data = (readStorage(weight.storage, "float32") as Float32Array).slice().fill(value, 7, 8);
      weight.storage = { kind: "memory", dtype: "float32", shape: weight.shape, data };
      return loaded;
    };
    const directory = join(scratch, "broken");
    expect(refusal(() => exportOnnx(directory, broken(-7e4), { dtypes: ["f16"] }))).toEqual({
      code: "float16-range",
      message: 'The weight "model.layers.1.mlp.up_proj.weight" holds -70000; float16 ends at 65504. Export this model as f32 or int8.',
    });
    expect(refusal(() => exportOnnx(directory, broken(Number.NaN), { dtypes: ["int8"] })).code).toBe("not-finite");
    expect(readdirSync(join(directory, "onnx"))).toEqual([]);
    expect(exportOnnx(directory, broken(65519), { dtypes: ["f16"] })).toHaveLength(1);
  });

  test("is never the model's own, and must be writable", () => {
    const { code } = refusal(() => exportOnnx(source, model(), { source }));
    expect(code).toBe("save-onto-source");
    writeFileSync(join(scratch, "file"), "");
    expect(refusal(() => exportOnnx(join(scratch, "file"), model())).code).toBe("not-writable");
  });
});
