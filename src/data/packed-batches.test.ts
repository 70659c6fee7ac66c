import { describe, expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { Random } from "../graph/index.ts";
import { type Batch, documentExamples, packedBatches } from "./index.ts";
import { packRows } from "./packing-plan.ts";

const example = (length: number, name: string) => ({
  ids: Array.from({ length }, (_, i) => 10 + i),
  targets: Array.from({ length }, (_, i) => 11 + i),
  description: name,
});
const rows = ({ feeds }: Batch, name: string) => {
  const { shape, data } = feeds[name]!;
  return Array.from({ length: shape[0]! }, (_, r) => Array.from(data.slice(r * shape[1]!, (r + 1) * shape[1]!), Number));
};

describe("packRows", () => {
  test("best fit decreasing, by hand: each into the row that it leaves the least room in", () => {
    // 7 opens a row (3 left), 6 another (4 left), 4 goes to the second (0 left), 3 to the first (0 left), 2 opens the third.
    expect(packRows([3, 2, 7, 4, 6], 10)).toEqual([[2, 0], [4, 3], [1]]);
  });

  test("holds everything once, no row is too full, and no more rows than 11/9 of the least and one", () => {
    const random = new Random(3);
    for (let round = 0; round < 50; round++) {
      const lengths = Array.from({ length: 200 }, () => 1 + random.integer(100));
      const packed = packRows(lengths, 100);
      expect(packed.flat().sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
      for (const row of packed) expect(row.reduce((n, i) => n + lengths[i]!, 0)).toBeLessThanOrEqual(100);
      const least = Math.ceil(lengths.reduce((n, l) => n + l, 0) / 100);
      expect(packed.length).toBeLessThanOrEqual((11 / 9) * least + 1);
    }
  });

  test("a hundred thousand documents take a moment", () => {
    const random = new Random(4);
    const lengths = Array.from({ length: 100_000 }, () => 1 + random.integer(2048));
    const started = performance.now();
    packRows(lengths, 2048);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

describe("packedBatches", () => {
  const examples = [example(3, "a"), example(2, "b"), example(7, "c"), example(4, "d"), example(6, "e")];

  test("rows hold examples one after the other, with the column where each begins; the rest is padding", () => {
    const source = packedBatches(examples, { batchSize: 2, sequenceLength: 10, padId: 5, shuffle: false });
    expect(source).toMatchObject({ batchesPerEpoch: 2, rows: 3 });
    expect(source.padding).toBeCloseTo(1 - 22 / 40);
    const first = source.batch(0);
    expect(rows(first, "ids")[0]).toEqual([10, 11, 12, 13, 14, 15, 16, 10, 11, 12]);
    expect(rows(first, "targets")[0]).toEqual([11, 12, 13, 14, 15, 16, 17, 11, 12, 13]);
    expect(rows(first, "documentStarts")).toEqual([
      [0, 0, 0, 0, 0, 0, 0, 7, 7, 7],
      [0, 0, 0, 0, 0, 0, 6, 6, 6, 6],
    ]);
    expect(first).toMatchObject({ tokens: 20, examples: 4, description: "c, a, e, d" });
    const last = source.batch(1);
    expect(rows(last, "ids")).toEqual([[10, 11, 5, 5, 5, 5, 5, 5, 5, 5], Array(10).fill(5)]);
    expect(rows(last, "targets")).toEqual([[11, 12, ...Array(8).fill(-100)], Array(10).fill(-100)]);
    expect(rows(last, "documentStarts")).toEqual([[0, 0, 2, 2, 2, 2, 2, 2, 2, 2], Array(10).fill(0)]);
    expect(last).toMatchObject({ tokens: 2, examples: 1 });
  });

  test("every epoch holds every example once, in an order that follows from seed and epoch", () => {
    const many = Array.from({ length: 60 }, (_, i) => example(1 + (i % 9), `n${i}`));
    const options = { batchSize: 1, sequenceLength: 16 };
    const epoch = (seed: number, n: number) => {
      const source = packedBatches(many, { ...options, seed });
      return Array.from({ length: source.batchesPerEpoch }, (_, i) => source.batch(n * source.batchesPerEpoch + i).description);
    };
    for (const n of [0, 1, 2]) expect(epoch(7, n).join(", ").split(", ").sort()).toEqual(many.map(({ description }) => description).sort());
    expect(epoch(7, 1)).toEqual(epoch(7, 1));
    expect(epoch(7, 1)).not.toEqual(epoch(7, 0));
    expect(epoch(8, 0)).not.toEqual(epoch(7, 0));
    // Not the rows alone change places: who shares a row changes too.
    expect([...epoch(7, 0)].sort()).not.toEqual([...epoch(7, 1)].sort());
  });

  test("what cannot be packed is refused by name", () => {
    const options = { batchSize: 2, sequenceLength: 4 };
    const message = (list: typeof examples, over = {}) => refusal(() => packedBatches(list, { ...options, ...over })).message;
    expect(message([])).toMatch(/no examples/);
    expect(message([example(5, "mail.txt line 3")])).toBe(
      "mail.txt line 3: has 5 tokens, and a row holds from 1 to 4; split or truncate longer ones.",
    );
    expect(message([example(0, "x")])).toMatch(/^x: has 0 tokens/);
    expect(message([{ ...example(2, "x"), targets: [1] }])).toMatch(/2 tokens and 1 targets/);
    expect(message(examples, { batchSize: 0 })).toMatch(/batch size .* not 0/);
    expect(message(examples, { sequenceLength: 2.5 })).toMatch(/sequence length .* not 2.5/);
  });
});

describe("documentExamples", () => {
  const documents = [
    { ids: [1, 2, 3, 4, 5, 6, 7], description: "long" },
    { ids: [8, 9], description: "short" },
    { ids: [3], description: "one" },
    { ids: [], description: "none" },
  ];

  test("splits: every token but the first is a target once", () => {
    expect(documentExamples(documents, 4)).toEqual({
      examples: [
        { ids: [1, 2, 3, 4], targets: [2, 3, 4, 5], description: "long, tokens 1–4" },
        { ids: [5, 6], targets: [6, 7], description: "long, tokens 5–6" },
        { ids: [8], targets: [9], description: "short" },
      ],
      truncation: { count: 1, of: 4, longest: 6, limit: 4 },
      tooShort: 2,
    });
  });

  test("or truncates", () => {
    expect(documentExamples(documents, 4, "truncate").examples.map(({ targets }) => targets)).toEqual([[2, 3, 4, 5], [9]]);
    expect(refusal(() => documentExamples(documents, 0)).code).toBe("data-limit");
  });
});
