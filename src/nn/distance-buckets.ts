import { currentGraph, type Tensor } from "../graph/index.ts";
import { abs, add, cast, gather, greater, maximum, minimum, mul, neg } from "../ops/index.ts";

export interface DistanceBucketOptions {
  /** Buckets in all; with `bidirectional`, half of them for keys after the query. */
  count: number;
  /** Distances from here on share the last bucket. */
  furthest: number;
  /** Whether keys after the query have buckets of their own, or share that of distance 0. */
  bidirectional: boolean;
}

/**
 * Distances (key − query), int64 [..., queries, keys] → buckets of the same shape: small distances have their own, large ones share by their logarithm
 * (Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer").
 */
export function distanceBuckets(distance: Tensor, { count, furthest, bidirectional }: DistanceBucketOptions): Tensor {
  const side = bidirectional ? Math.floor(count / 2) : count;
  const size = bidirectional ? abs(distance) : maximum(neg(distance), 0);
  const table = BigInt64Array.from(bucketsOf(side, furthest), BigInt);
  const bucket = gather(currentGraph().constant("int64", [table.length], table), minimum(size, furthest));
  return bidirectional ? add(bucket, mul(cast(greater(distance, 0), "int64"), side)) : bucket;
}

/** The buckets of the distances 0 … `furthest`, which those beyond share. */
function bucketsOf(count: number, furthest: number): number[] {
  const exact = Math.floor(count / 2);
  const { fround } = Math;
  // In float32, as where the biases were learned: it decides on which side of a boundary a distance falls.
  const slope = (size: number) => fround(fround(Math.log(size / exact)) / fround(Math.log(furthest / exact)));
  return Array.from({ length: furthest + 1 }, (_, size) =>
    size < exact ? size : Math.min(count - 1, exact + Math.trunc(fround(slope(size) * (count - exact)))),
  );
}
