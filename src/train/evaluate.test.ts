import { describe, expect, test } from "vitest";
import { counting, options } from "../../tests/train/counting.ts";
import { hostTensor } from "../runtime/index.ts";
import { Evaluator } from "./evaluate.ts";

describe("what cannot be measured is refused", () => {
  const { device, objective } = options({});
  const evaluator = new Evaluator(device, objective);

  test("a source without a batch", async () => {
    await expect(evaluator.run({ ...counting(4), batchesPerEpoch: 0 })).rejects.toMatchObject({
      code: "empty-data",
      message: expect.stringContaining("the data have no batch"),
    });
  });

  test("a source without a target that counts, unless its outputs alone are wanted", async () => {
    const source = counting(4);
    const ignored = {
      ...source,
      batchesPerEpoch: 2,
      batch(step: number) {
        const { feeds, ...rest } = source.batch(step);
        const { shape } = feeds.targets!;
        const targets = hostTensor("int64", shape, new BigInt64Array(shape.reduce((n, size) => n * size, 1)).fill(-100n));
        return { ...rest, feeds: { ...feeds, targets } };
      },
    };
    await expect(evaluator.run(ignored)).rejects.toMatchObject({
      code: "no-targets",
      message: expect.stringContaining("not one target in 2 batches counts"),
    });
    expect(await evaluator.outputs(ignored)).toEqual({ loss: Number.NaN, weight: 0 });
  });
});
