import { expect, test } from "vitest";
import type { Tensor } from "../../graph/index.ts";
import { trace } from "../../graph/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import type { Objective } from "./objective.ts";
import { multiLabelClassification, sequenceRegression } from "./sequence-regression.ts";
import { tokenClassification } from "./token-classification.ts";

const f32 = (shape: number[], values: number[]) => hostTensor("float32", shape, Float32Array.from(values));
const i64 = (shape: number[], values: number[]) => hostTensor("int64", shape, BigInt64Array.from(values, BigInt));

async function run(objective: Objective, feeds: Record<string, HostTensor>) {
  const program = await cpu().compile(
    trace(feeds, (inputs) => ({ ...(({ total, weight }) => ({ total, weight }))(objective.trace(inputs)) })),
  );
  const { total, weight } = await program.run(feeds);
  await program.dispose();
  return [Number(total!.data[0]), Number(weight!.data[0])];
}

/** A model whose outputs are its ids, so that a batch states them. */
const echo = (logits: Tensor) => logits;

test("regression: squared errors, averaged over the numbers of a row; rows of weight 0 do not count", async () => {
  const feeds = {
    ids: f32([3, 2], [1, 2, 5, 5, 9, 9]),
    lengths: i64([3], [1, 1, 1]),
    values: f32([3, 2], [0, 4, 5, 4, 0, 0]),
    weights: f32([3], [1, 1, 0]),
  };
  expect(await run(sequenceRegression({ forward: echo }), feeds)).toEqual([(1 + 4) / 2 + 1 / 2, 2]);
});

test("several labels: binary cross-entropies, averaged over the labels", async () => {
  const [logits, values] = [
    [2, -1, 0, 3],
    [1, 0, 1, 1],
  ];
  const loss = (z: number, y: number) => Math.log1p(Math.exp(-z)) * y + Math.log1p(Math.exp(z)) * (1 - y);
  const feeds = { ids: f32([2, 2], logits!), lengths: i64([2], [1, 1]), values: f32([2, 2], values!), weights: f32([2], [1, 1]) };
  const [total, weight] = await run(multiLabelClassification({ forward: echo }), feeds);
  expect(total).toBeCloseTo(
    logits!.reduce((sum, z, i) => sum + loss(z, values![i]!) / 2, 0),
    5,
  );
  expect(weight).toBe(2);
});

test("labels of tokens: cross-entropies of those that have one", async () => {
  const feeds = { ids: f32([1, 3, 2], [0, 0, 1, 3, 7, -7]), targets: i64([1, 3], [0, 1, -100]) };
  const [total, weight] = await run(tokenClassification({ forward: ({ ids }) => ids }), feeds);
  expect(total).toBeCloseTo(Math.LN2 + Math.log1p(Math.exp(-2)), 5);
  expect(weight).toBe(2);
});
