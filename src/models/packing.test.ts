/** Documents that share a row compute what each computes alone, in every decoder family and behind virtual tokens. */
import { afterAll, describe, expect, test } from "vitest";
import { changed } from "../../tests/models/reference.ts";
import { grad } from "../autodiff/index.ts";
import { type Tensor, trace } from "../graph/index.ts";
import { prefixTuning, promptTuning } from "../methods/index.ts";
import { type DecoderOutputs, floats } from "../nn/index.ts";
import { hostTensor, jit } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { causalLanguageModel } from "../train/index.ts";
import { applyWeights } from "../train/method.ts";
import { traceObjective } from "../train/objectives/packed-rows.ts";
import { type CausalLM, loadCausalLM, loadSeq2SeqLM } from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const fixture = (name: string) => new URL(`../../tests/fixtures/${name}`, import.meta.url).pathname;
const int64 = (rows: readonly (readonly number[])[]) =>
  hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

/** Rows of documents, given by their lengths; what is left of a row is padding, a document of its own without targets. */
const columns = 24;
const layout = [
  [9, 5, 9],
  [5, 9, 9],
];

function documentsOf(seed: number): number[][][] {
  let state = seed;
  const next = () => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return 3 + (Math.floor(state / 65536) % 90);
  };
  return layout.map((lengths) => lengths.map((length) => Array.from({ length }, next)));
}

type Inputs = Readonly<Record<string, Tensor>>;
type Feeds = Record<"ids" | "targets" | "documentStarts", ReturnType<typeof int64>>;

function packed(rows: readonly (readonly (readonly number[])[])[]): Feeds {
  const lines = rows.map((documents) => {
    const used = documents.reduce((n, d) => n + d.length, 0);
    const filler = Array.from({ length: columns - used }, () => 0);
    const line = { ids: [] as number[], targets: [] as number[], starts: [] as number[] };
    for (const document of [...documents, filler]) {
      const start = line.ids.length;
      line.ids.push(...document);
      line.targets.push(...document.map((_, i) => (document === filler ? -100 : (document[i + 1] ?? -100))));
      line.starts.push(...document.map(() => start));
    }
    return line;
  });
  return {
    ids: int64(lines.map(({ ids }) => ids)),
    targets: int64(lines.map(({ targets }) => targets)),
    documentStarts: int64(lines.map(({ starts }) => starts)),
  };
}

type Result = { logits: Float32Array; gradients: Float32Array[] };

/** What computes the logits of every position, and the gradients of the summed loss for all trained parameters. */
function computing(model: CausalLM): (feeds: Partial<Feeds>) => Promise<Result> {
  const parameters = model.trainableParameters();
  const run = jit(device, (inputs: Record<string, Tensor>): Record<string, Tensor> => {
    const { hidden } = model.forward({ ids: inputs.ids, documentStarts: inputs.documentStarts });
    const { total } = causalLanguageModel(model).trace(inputs);
    const gradients = grad(
      total,
      parameters.map((p) => p.value),
    );
    return { logits: model.logits(hidden), ...Object.fromEntries(gradients.map((g, i) => [`g${i}`, g])) };
  });
  return async (feeds) => {
    const out = await run(feeds as Feeds);
    return { logits: out.logits!.data as Float32Array, gradients: parameters.map((_, i) => out[`g${i}`]!.data as Float32Array) };
  };
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!)), 0);

async function expectAsAlone(model: CausalLM): Promise<void> {
  const rows = documentsOf(1);
  const compute = computing(model);
  const together = await compute(packed(rows));
  const vocabulary = model.config.vocab_size;
  const part = ({ logits }: Result, row: number, from: number, length: number) =>
    logits.subarray((row * columns + from) * vocabulary, (row * columns + from + length) * vocabulary);
  const sums = together.gradients.map((g) => new Float64Array(g.length));
  for (const [row, documents] of rows.entries()) {
    let at = 0;
    for (const document of documents) {
      const alone = await compute({ ids: int64([document]), targets: int64([[...document.slice(1), -100]]) });
      expect(distance(part(together, row, at, document.length), alone.logits)).toBeLessThan(1e-5);
      for (const [i, gradient] of alone.gradients.entries()) for (const [j, v] of gradient.entries()) sums[i]![j]! += v;
      at += document.length;
    }
  }
  for (const [i, sum] of sums.entries()) {
    const size = sum.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    expect(distance(together.gradients[i]!, sum)).toBeLessThan(1e-5 * Math.max(1, size));
  }
  // Another document in the middle of the first row: not a bit of its neighbours' changes.
  const other = rows.map((documents, row) => documents.map((d, i) => (row === 0 && i === 0 ? d.map((id) => 95 - (id % 90)) : d)));
  const disturbed = await compute(packed(other));
  expect(part(disturbed, 0, 0, 9)).not.toEqual(part(together, 0, 0, 9));
  expect(part(disturbed, 0, 9, 14)).toEqual(part(together, 0, 9, 14));
  expect(part(disturbed, 1, 0, columns)).toEqual(part(together, 1, 0, columns));
}

test.each([
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
])("%s: logits and gradients as alone, and nothing leaks", async (name) => {
  await expectAsAlone(loadCausalLM(fixture(`decoder-${name}`)));
});

describe.each(["mistral", "gpt2", "bloom", "gemma3"])("%s behind virtual tokens", (name) => {
  test.each([
    ["prompt tuning", promptTuning({ tokens: 3 })],
    ["prefix tuning", prefixTuning({ tokens: 3 })],
  ])("%s: every document has them before it", async (_, method) => {
    const model = loadCausalLM(fixture(`decoder-${name}`));
    applyWeights(model, [method]);
    for (const p of model.trainableParameters())
      p.storage = floats(
        p.shape,
        Float32Array.from({ length: p.shape.reduce((n, d) => n * d, 1) }, (_, i) => Math.sin(i)),
      );
    await expectAsAlone(model);
  });
});

test.each(["decoder-mistral", "decoder-bloom"])("%s: rows long enough that causal attention is cut into blocks", async (name) => {
  const long = (config: Record<string, unknown>) => Object.assign(config, { max_position_embeddings: 256 });
  await changed(name, long, async (directory) => {
    const compute = computing(loadCausalLM(directory).freeze());
    const tokens = Array.from({ length: 150 }, (_, i) => 3 + ((i * 7) % 90));
    const cuts = [0, 50, 100, 150];
    const logits = async (ids: number[], starts?: number[]) => {
      const feeds = { ids: int64([ids]), targets: int64([ids.map(() => 1)]), ...(starts && { documentStarts: int64([starts]) }) };
      return (await compute(feeds)).logits;
    };
    const together = await logits(
      tokens,
      tokens.map((_, i) => cuts.findLast((cut) => cut <= i)!),
    );
    const alone = [0, 1, 2].map((i) => logits(tokens.slice(cuts[i], cuts[i + 1])));
    expect(
      distance(
        together,
        (await Promise.all(alone)).flatMap((part) => [...part]),
      ),
    ).toBeLessThan(1e-5);
  });
});

test("is refused where it would mean something else", () => {
  const ids = int64([[4, 5, 6]]);
  const model = loadCausalLM(fixture("llama-tiny"));
  const translator = loadSeq2SeqLM(fixture("seq2seq-t5"));
  const reading = (forward: (i: Record<"ids" | "documentStarts", Tensor>) => DecoderOutputs) => () =>
    trace({ ids, documentStarts: ids }, (i) => ({ y: forward(i).hidden }));
  expect(reading((i) => model.forward({ ...i, positions: i.ids }))).toThrow(/takes no `positions`/);
  const blind = {
    ...causalLanguageModel(model),
    name: "blind",
    trace: ({ ids, targets }: Inputs) => causalLanguageModel(model).trace({ ids: ids!, targets: targets! }),
  };
  expect(() => trace({ ids, targets: ids, documentStarts: ids }, (i) => ({ y: traceObjective(blind, i).total }))).toThrow(
    /objective "blind" does not tell the documents of packed rows apart/,
  );
  expect(() =>
    trace({ ids, targets: ids, documentStarts: ids }, (i) => ({ y: traceObjective(causalLanguageModel(model), i).total })),
  ).not.toThrow();
  expect(reading((i) => translator.forward({ ids: i.ids }, i))).toThrow(/cannot be packed/);
});
