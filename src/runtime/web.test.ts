import { expect, test } from "vitest";
import { converted, type MemoryStorage, read, type Storage, trace, Variable } from "../graph/index.ts";
import { sum } from "../ops/index.ts";
import { wasm } from "./web.ts";

const patterns: MemoryStorage = { kind: "memory", dtype: "bfloat16", shape: [2], data: Uint16Array.of(0x3fc0, 0xc000) };
const total = async (storage: Storage, frozen: boolean) => {
  const v = new Variable("v", { dtype: "float32", shape: [2] }, storage, { frozen });
  const program = await wasm({ threads: 1 }).compile(trace({}, () => ({ total: sum(read(v)) })));
  return (await program.run()).total!.data[0];
};

test.each([true, false])("values stored in another float type are widened (frozen: %s)", async (frozen) => {
  expect(await total(patterns, frozen)).toBe(-0.5);
  expect(await total(converted(patterns, "float16"), frozen)).toBe(-0.5);
  expect(await total({ kind: "lazy", dtype: "float32", shape: [2], load: () => Float32Array.of(1, 2) }, frozen)).toBe(3);
});

test("a file is refused: a browser reads none", async () => {
  const storage: Storage = { kind: "file", dtype: "bfloat16", shape: [2], file: "/w.safetensors", offset: 0, byteLength: 4 };
  await expect(total(storage, true)).rejects.toThrow(/cannot read \/w.safetensors/);
});
