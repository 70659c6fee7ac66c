/** Encoder–decoders compute and generate what transformers does, on tiny random checkpoints that it wrote. */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../tests/models/adapt.ts";
import { openSafetensors, readJsonObject, readStorage, writeSafetensors } from "../checkpoints/index.ts";
import { type BeamResult, beamSearch, type Continuation, Decoder, Seq2SeqDecoder } from "../generate/index.ts";
import { type Storage, trace } from "../graph/index.ts";
import { floats, Linear } from "../nn/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { sequenceToSequence } from "../train/index.ts";
import { loadCausalLM, loadSeq2SeqLM } from "./index.ts";

const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const fixtures = new URL("../../tests/fixtures/", import.meta.url).pathname;

interface Searched {
  num_beams: number;
  max_new_tokens: number;
  length_penalty: number;
  early_stopping: boolean;
  rows: { ids: number[]; score: number }[];
}

interface Expected {
  input_ids: number[][];
  attention_mask: number[][];
  decoder_input_ids: number[][];
  greedy: number[][];
  beams: Searched[];
}

const int64 = (rows: readonly number[][]) => hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));

/** The best answers of every search that the fixture holds are those of transformers. */
async function expectSearches(searches: readonly Searched[], start: () => Promise<Continuation>, end: number): Promise<void> {
  for (const search of searches) {
    const found = await beamSearch(await start(), {
      beams: search.num_beams,
      maxNewTokens: search.max_new_tokens,
      lengthPenalty: search.length_penalty,
      earlyStopping: search.early_stopping,
      endIds: [end],
    });
    const best = found.map(([first]) => first) as BeamResult[];
    expect(best.map(({ ids }) => ids)).toEqual(search.rows.map(({ ids }) => ids));
    for (const [row, { score }] of best.entries()) expect(score).toBeCloseTo(search.rows[row]!.score, 3);
  }
}

describe.each(["t5", "flan-t5", "bart"])("%s", (name) => {
  const directory = join(fixtures, `seq2seq-${name}`);
  const expected = readJsonObject(join(directory, "expected.json")) as unknown as Expected;
  const model = loadSeq2SeqLM(directory).freeze();
  const prompts = expected.input_ids.map((row, i) => row.filter((_, j) => expected.attention_mask[i]![j] === 1));
  const end = model.config.eos_token_id as number;

  test("logits of a given answer, with padded sources", async () => {
    const { tensors } = openSafetensors(join(directory, "expected.safetensors"));
    const logits = readStorage(tensors.get("logits")!) as Float32Array;
    const feeds = {
      ids: int64(expected.input_ids),
      attentionMask: int64(expected.attention_mask),
      answer: int64(expected.decoder_input_ids),
    };
    const program = await device.compile(
      trace(feeds, ({ ids, attentionMask, answer }) => ({
        logits: model.logits(model.forward({ ids, attentionMask }, { ids: answer }).hidden),
      })),
    );
    const got = (await program.run(feeds)).logits!.data as Float32Array;
    expect(got.length).toBe(logits.length);
    // Logits of these models reach ±50: a float32 has seven digits.
    const largest = logits.reduce((a, v) => Math.max(a, Math.abs(v)), 1);
    expect(got.reduce((a, v, i) => Math.max(a, Math.abs(v - logits[i]!)), 0)).toBeLessThan(1e-4 * Math.max(1, largest / 10));
    await program.dispose();
  });

  test("greedy answers to sources of different lengths together, at every step as each alone", async () => {
    const decoder = await Seq2SeqDecoder.create(device, model);
    const together = await decoder.start(prompts);
    const alone = await Promise.all(prompts.map((prompt) => decoder.start([prompt])));
    const answers: number[][] = prompts.map(() => []);
    for (let step = 0; step < 12; step++) {
      const next = prompts.map((_, row) => {
        const logits = together.logits(row);
        const own = alone[row]!.logits();
        expect(logits.reduce((a, v, i) => Math.max(a, Math.abs(v - own[i]!)), 0)).toBeLessThan(2e-4);
        return logits.indexOf(Math.max(...logits));
      });
      for (const [row, id] of next.entries()) if (answers[row]!.at(-1) !== end) answers[row]!.push(id);
      await together.push(next);
      for (const [row, id] of next.entries()) await alone[row]!.push([id]);
    }
    expect(answers).toEqual(expected.greedy);
    await decoder.dispose();
  });

  test("low-rank adapters on all of its projections learn", async () => {
    const adapted = loadSeq2SeqLM(directory);
    const answer = expected.decoder_input_ids;
    const batch = {
      ids: int64(expected.input_ids),
      attentionMask: int64(expected.attention_mask),
      answer: int64(answer),
      targets: int64(answer.map((row) => [...row.slice(1), -100])),
    };
    // Of steep models: a larger rate overshoots.
    expectFalling(await lossesWithLora(adapted, "all-linear", sequenceToSequence(adapted), batch, 1e-4));
  });

  test("beam search", async () => {
    const decoder = await Seq2SeqDecoder.create(device, model);
    await expectSearches(expected.beams, () => decoder.start(prompts), end);
    await decoder.dispose();
  });
});

describe("a tied head that the file holds a second time", () => {
  const withHead = (head: (shared: Float32Array) => Float32Array) => {
    const directory = mkdtempSync(join(tmpdir(), "espalier-seq2seq-"));
    cpSync(join(fixtures, "seq2seq-t5"), directory, { recursive: true });
    const tensors = new Map<string, Storage>(openSafetensors(join(fixtures, "seq2seq-t5", "model.safetensors")).tensors);
    const shared = tensors.get("shared.weight")!;
    tensors.set("lm_head.weight", floats(shared.shape, head(readStorage(shared, "float32") as Float32Array)));
    writeSafetensors(join(directory, "model.safetensors"), tensors);
    const loaded = loadSeq2SeqLM(directory).head;
    rmSync(directory, { recursive: true });
    return loaded;
  };

  test("stays tied", () => expect(withHead((shared) => shared)).toBeUndefined());
  test("and of other values is one of its own", () => expect(withHead((shared) => shared.map((v) => 2 * v))).toBeInstanceOf(Linear));
});

test("beam search with a decoder alone", async () => {
  const directory = join(fixtures, "decoder-qwen3");
  const model = loadCausalLM(directory).freeze();
  const { input_ids, beams } = readJsonObject(join(directory, "beams.json")) as unknown as Pick<Expected, "input_ids" | "beams">;
  const decoder = await Decoder.create(device, model);
  await expectSearches(beams, () => decoder.start(input_ids), model.config.eos_token_id as number);
  await decoder.dispose();
});
