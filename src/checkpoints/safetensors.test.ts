import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DType, dtypeSize } from "../graph/dtype.ts";
import { toFloat32 } from "../graph/dtype-conversion.ts";
import type { MemoryStorage, Storage } from "../graph/storage.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { refusal } from "./refusal.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";

const fixtures = fileURLToPath(new URL("../../tests/fixtures/dtypes/", import.meta.url));
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-safetensors-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const float32 = (shape: number[], data: number[]): MemoryStorage => ({
  kind: "memory",
  dtype: "float32",
  shape,
  data: Float32Array.from(data),
});

describe("a file written by the safetensors library", () => {
  const expected = JSON.parse(readFileSync(join(fixtures, "all.json"), "utf8")) as {
    tensors: Record<string, { shape: number[]; values: number[] }>;
  };

  test("opens with every dtype, value, shape and metadata string", () => {
    const { metadata, tensors } = openSafetensors(join(fixtures, "all.safetensors"));
    expect(metadata).toEqual({ made_by: "safetensors", Umlaut: "ä" });
    expect([...tensors.keys()].sort()).toEqual(Object.keys(expected.tensors).sort());
    for (const [name, { shape, values }] of Object.entries(expected.tensors)) {
      const storage = tensors.get(name)!;
      expect(storage.shape).toEqual(shape);
      if (name in dtypeSize) expect(storage.dtype).toBe(name as DType);
      const read = readStorage(storage);
      const asNumbers = storage.dtype.endsWith("float16") || storage.dtype === "bfloat16" ? toFloat32(storage.dtype, read) : read;
      expect(Array.from(asNumbers as ArrayLike<number | bigint>, Number)).toEqual(values);
    }
  });

  test("survives being written and read again, streamed from the file and from memory alike", () => {
    const { metadata, tensors } = openSafetensors(join(fixtures, "all.safetensors"));
    const streamed = join(directory, "streamed.safetensors");
    const copied = join(directory, "copied.safetensors");
    const again = writeSafetensors(streamed, tensors, metadata);
    const inMemory = [...tensors].map(([name, s]): [string, Storage] => [
      name,
      { kind: "memory", dtype: s.dtype, shape: s.shape, data: readStorage(s) },
    ]);
    writeSafetensors(copied, Object.fromEntries(inMemory.reverse()), metadata);
    expect(readFileSync(copied).equals(readFileSync(streamed))).toBe(true);
    expect(again.metadata).toEqual(metadata);
    for (const [name, storage] of tensors) expect(readStorage(again.tensors.get(name)!)).toEqual(readStorage(storage));
  });

  test("with a dtype that we do not compute with is refused without calling the file broken", () => {
    expect(refusal(() => openSafetensors(join(fixtures, "float8.safetensors")), directory)).toEqual({
      code: "checkpoint-dtype",
      message: `${join(fixtures, "float8.safetensors")}: tensor "small" has dtype F8_E4M3, which Espalier does not compute with. Convert the file to one of F64, F32, F16, BF16, I64, I32, I8, U8, BOOL.`,
    });
  });
});

describe("writing", () => {
  test("aligns the data to 64 bytes and every tensor to its element size, and does not depend on the order given", () => {
    const file = join(directory, "aligned.safetensors");
    const bytes: Storage = { kind: "memory", dtype: "uint8", shape: [3], data: Uint8Array.of(1, 2, 3) };
    const wide: Storage = { kind: "memory", dtype: "int64", shape: [1], data: BigInt64Array.of(-5n) };
    const { tensors } = writeSafetensors(file, { a: bytes, b: float32([2], [1, 2]), c: wide });
    expect([...tensors.values()].map(({ offset, dtype }) => offset % dtypeSize[dtype])).toEqual([0, 0, 0]);
    expect(tensors.get("c")!.offset % 64).toBe(0);
    expect(tensors.get("b")!.offset).toBe(tensors.get("c")!.offset + 8);
    const first = readFileSync(file);
    writeSafetensors(file, new Map([["c", wide] as const, ["b", float32([2], [1, 2])] as const, ["a", bytes] as const]));
    expect(readFileSync(file).equals(first)).toBe(true);
  });

  test("takes a view into a larger array, a scalar, an empty tensor, no tensor at all, and the oddest names", () => {
    const file = join(directory, "odd.safetensors");
    const view: Storage = { kind: "memory", dtype: "float32", shape: [2], data: Float32Array.of(0, 1, 2, 3).subarray(1, 3) };
    const names = ["__proto__", "constructor", '"quoted\\"', "日本", "7", ""];
    const tensors = new Map<string, Storage>([
      ["view", view],
      ["scalar", float32([], [9])],
      ["empty", float32([0, 5], [])],
    ]);
    for (const name of names) tensors.set(name, float32([1], [name.length]));
    const opened = writeSafetensors(file, tensors).tensors;
    expect(readStorage(opened.get("view")!)).toEqual(Float32Array.of(1, 2));
    expect(readStorage(opened.get("scalar")!)).toEqual(Float32Array.of(9));
    expect(opened.get("empty")).toMatchObject({ shape: [0, 5], byteLength: 0 });
    for (const name of names) expect(readStorage(opened.get(name)!)).toEqual(Float32Array.of(name.length));
    expect(writeSafetensors(file, {}).tensors.size).toBe(0);
  });

  test("may replace the very file that the values come from", () => {
    const file = join(directory, "self.safetensors");
    const { tensors } = writeSafetensors(file, { a: float32([3], [1, 2, 3]), b: float32([1], [4]) });
    const again = writeSafetensors(file, { renamed: tensors.get("a")!, "another, longer name": tensors.get("b")! });
    expect(readStorage(again.tensors.get("renamed")!)).toEqual(Float32Array.of(1, 2, 3));
    expect(readStorage(again.tensors.get("another, longer name")!)).toEqual(Float32Array.of(4));
  });

  test("names the real file behind a symbolic link, which ONNX Runtime can map", () => {
    mkdirSync(join(directory, "blobs"));
    writeSafetensors(join(directory, "blobs", "abc"), { a: float32([1], [1]) });
    symlinkSync(join("blobs", "abc"), join(directory, "link.safetensors"));
    expect(openSafetensors(join(directory, "link.safetensors")).tensors.get("a")!.file).toMatch(/blobs[\\/]abc$/);
  });

  test("refuses a shape that is not that of the values, before it touches the disk", () => {
    const file = join(directory, "wrong.safetensors");
    expect(refusal(() => writeSafetensors(file, { w: float32([2, 2], [1, 2, 3]) }), directory)).toEqual({
      code: "checkpoint-shape",
      message:
        '…/wrong.safetensors: tensor "w" cannot be written: float32 [2, 2] needs 16 bytes, its storage holds 12. Give it the shape of its values.',
    });
    expect(refusal(() => writeSafetensors(file, { __metadata__: float32([1], [1]) }), directory).message).toBe(
      '…/wrong.safetensors: no tensor can be called "__metadata__", the format reserves it. Rename it.',
    );
    expect(readdirSync(directory)).not.toContain("wrong.safetensors");
  });

  test("notices that a source file was cut since it was opened, and leaves nothing behind", () => {
    const source = join(directory, "source.safetensors");
    const { tensors } = writeSafetensors(source, { a: float32([1000], Array(1000).fill(1)) });
    const { offset } = tensors.get("a")!;
    truncateSync(source, offset + 400);
    const { code, message } = refusal(() => writeSafetensors(join(directory, "target.safetensors"), tensors), directory);
    expect(code).toBe("checkpoint-truncated");
    expect(message).toBe(
      `…/source.safetensors: ends at byte ${offset + 400}, but 4000 bytes were expected from byte ${offset}. It was cut short or changed since it was opened: open it again.`,
    );
    expect(readdirSync(directory).filter((name) => name.includes("target"))).toEqual([]);
  });
});
