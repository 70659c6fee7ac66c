import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type DType, dtypeSize } from "../graph/dtype.ts";
import { EspalierError } from "../graph/errors.ts";
import type { MemoryStorage, Storage } from "../graph/storage.ts";
import { toFloat32 } from "./dtype-conversion.ts";
import { openSafetensors, readStorage, writeSafetensors } from "./safetensors.ts";

const fixtures = fileURLToPath(new URL("../../tests/fixtures/dtypes/", import.meta.url));
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-safetensors-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** What went wrong, as the person who caused it reads it; the file's directory is left out. */
function refusal(run: () => unknown): { code: string; message: string } {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(EspalierError);
    const { code, message } = error as EspalierError;
    return { code, message: message.replaceAll(directory, "…") };
  }
  throw new Error("nothing was refused");
}

function rawFile(header: unknown, dataBytes = 0, options: { announced?: bigint } = {}): string {
  const text = typeof header === "string" ? Buffer.from(header, "latin1") : Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(options.announced ?? BigInt(text.length));
  const file = join(directory, "raw.safetensors");
  writeFileSync(file, Buffer.concat([prefix, text, Buffer.alloc(dataBytes)]));
  return file;
}

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
    expect(refusal(() => openSafetensors(join(fixtures, "float8.safetensors")))).toEqual({
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
    expect(refusal(() => writeSafetensors(file, { w: float32([2, 2], [1, 2, 3]) }))).toEqual({
      code: "checkpoint-shape",
      message:
        '…/wrong.safetensors: tensor "w" cannot be written: float32 [2, 2] needs 16 bytes, its storage holds 12. Give it the shape of its values.',
    });
    expect(refusal(() => writeSafetensors(file, { __metadata__: float32([1], [1]) })).message).toBe(
      '…/wrong.safetensors: no tensor can be called "__metadata__", the format reserves it. Rename it.',
    );
    expect(readdirSync(directory)).not.toContain("wrong.safetensors");
  });

  test("notices that a source file was cut since it was opened, and leaves nothing behind", () => {
    const source = join(directory, "source.safetensors");
    const { tensors } = writeSafetensors(source, { a: float32([1000], Array(1000).fill(1)) });
    const { offset } = tensors.get("a")!;
    truncateSync(source, offset + 400);
    const { code, message } = refusal(() => writeSafetensors(join(directory, "target.safetensors"), tensors));
    expect(code).toBe("checkpoint-truncated");
    expect(message).toBe(
      `…/source.safetensors: ends at byte ${offset + 400}, but 4000 bytes were expected from byte ${offset}. It was cut short or changed since it was opened: open it again.`,
    );
    expect(readdirSync(directory).filter((name) => name.includes("target"))).toEqual([]);
  });
});

describe("a bad file is refused with", () => {
  const f32 = (shape: unknown, offsets: unknown) => ({ dtype: "F32", shape, data_offsets: offsets });
  const cases: [what: string, make: () => string, code: string, message: string][] = [
    ["no file", () => join(directory, "none"), "checkpoint-missing", "…/none: cannot be read, there is no such file. Check the path."],
    ["a directory", () => directory, "checkpoint-missing", "…: cannot be read, it is a directory. Check the path."],
    [
      "5 bytes",
      () => {
        const file = join(directory, "short");
        writeFileSync(file, "abcde");
        return file;
      },
      "checkpoint-truncated",
      "…/short: has 5 bytes; a safetensors file starts with 8 bytes that give the length of its header. Fetch or save it again.",
    ],
    [
      "a Git LFS pointer",
      () => {
        const file = join(directory, "pointer");
        writeFileSync(file, "version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n");
        return file;
      },
      "checkpoint-truncated",
      '…/pointer: is a Git LFS pointer, not the weights. Run "git lfs pull" in its directory, or download the file itself.',
    ],
    [
      "a truncated header",
      () => rawFile('{"a":{"dtype":"F32"', 0, { announced: 60n }),
      "checkpoint-truncated",
      "announces a header of 60 bytes, but only 19 follow (the file has 27). It is cut short or not safetensors: fetch or save it again.",
    ],
    [
      "a header length larger than any file",
      () => rawFile("{}", 0, { announced: 2n ** 64n - 1n }),
      "checkpoint-truncated",
      "announces a header of 18446744073709551615 bytes, but only 2 follow (the file has 10). It is cut short or not safetensors: fetch or save it again.",
    ],
    [
      "a header over the format's cap",
      () => {
        const file = rawFile("{}", 0, { announced: 100_000_001n });
        truncateSync(file, 100_000_100);
        return file;
      },
      "checkpoint-header",
      "announces a header of 100000001 bytes; safetensors allows 100000000. It is damaged or not safetensors: fetch or save it again.",
    ],
    [
      "a header that is not UTF-8",
      () => rawFile('{"\xff":1}'),
      "checkpoint-header",
      "the header (7 bytes from offset 8) is not UTF-8. The file is damaged",
    ],
    [
      "a header that is not an object",
      () => rawFile("[1]"),
      "checkpoint-header",
      'the header (3 bytes from offset 8) must start with "{", not with "[1]".',
    ],
    ["an empty header", () => rawFile(""), "checkpoint-header", 'the header (0 bytes from offset 8) must start with "{", not with "".'],
    ["bad JSON", () => rawFile('{"a":}'), "checkpoint-header", "the header (6 bytes from offset 8) is not valid JSON (Unexpected token"],
    [
      "a duplicate tensor, one spelled with an escape",
      () => rawFile('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
      "checkpoint-header",
      'has the key "a" twice. The file is damaged or not safetensors: fetch or save it again.',
    ],
    [
      "metadata that is not strings",
      () => rawFile({ __metadata__: { step: 3 } }),
      "checkpoint-header",
      '"__metadata__" must map strings to strings; its key "step" does not. Save the file again with string values only.',
    ],
    [
      "metadata that is a list",
      () => rawFile({ __metadata__: [] }),
      "checkpoint-header",
      '"__metadata__" must map strings to strings; it does not.',
    ],
    [
      "a tensor that is null",
      () => rawFile({ w: null }),
      "checkpoint-header",
      'tensor "w" must be described by {dtype, shape, data_offsets}. Save the file again.',
    ],
    [
      "an unknown dtype",
      () => rawFile({ w: { dtype: "F31", shape: [1], data_offsets: [0, 4] } }, 4),
      "checkpoint-dtype",
      'tensor "w" has the unknown dtype "F31". Known are F64, F32, F16, BF16, I64, I32, I8, U8, BOOL; save the file again with one of them.',
    ],
    ["no dtype", () => rawFile({ w: {} }), "checkpoint-dtype", 'tensor "w" has the unknown dtype nothing.'],
    ["a dtype that every object has", () => rawFile({ w: { dtype: "toString" } }), "checkpoint-dtype", 'unknown dtype "toString"'],
    [
      "a negative dimension",
      () => rawFile({ w: f32([-1], [0, 4]) }, 4),
      "checkpoint-shape",
      'tensor "w": shape must be a list of whole numbers ≥ 0, not [-1].',
    ],
    ["a fractional dimension", () => rawFile({ w: f32([1.5], [0, 6]) }, 6), "checkpoint-shape", "whole numbers ≥ 0, not [1.5]."],
    [
      "a shape that does not fit",
      () => rawFile({ w: f32([2, 3], [0, 20]) }, 20),
      "checkpoint-shape",
      'tensor "w": float32 [2, 3] needs 24 bytes, but data_offsets [0, 20] hold 20. The header is wrong: save the file again.',
    ],
    [
      "a shape that overflows",
      () => rawFile({ w: f32([2 ** 52, 2 ** 52], [0, 0]) }),
      "checkpoint-shape",
      "needs more bytes than any file has, but data_offsets [0, 0] hold 0.",
    ],
    [
      "a negative offset",
      () => rawFile({ w: f32([1], [-4, 0]) }),
      "checkpoint-offsets",
      'tensor "w": data_offsets must be [begin, end] with 0 ≤ begin ≤ end, not [-4,0].',
    ],
    ["offsets in the wrong order", () => rawFile({ w: f32([1], [4, 0]) }, 4), "checkpoint-offsets", "0 ≤ begin ≤ end, not [4,0]."],
    ["three offsets", () => rawFile({ w: f32([1], [0, 4, 8]) }, 8), "checkpoint-offsets", "not [0,4,8]."],
    [
      "data cut short",
      () => rawFile({ w: f32([4], [0, 16]) }, 10),
      "checkpoint-truncated",
      'tensor "w" ends at byte 16 of the data section, but the file has only 10 there (6 missing). The file is cut short: fetch or copy it again.',
    ],
    [
      "overlapping tensors",
      () => rawFile({ a: f32([2], [0, 8]), b: f32([2], [4, 12]) }, 12),
      "checkpoint-offsets",
      'tensors "a" and "b" overlap: the first ends at byte 8, the second begins at 4. The header is wrong: save the file again.',
    ],
    [
      "a gap between tensors",
      () => rawFile({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12),
      "checkpoint-offsets",
      '4 bytes between tensor "a" (byte 4) and tensor "b" (byte 8) belong to no tensor.',
    ],
    [
      "a gap at the start",
      () => rawFile({ a: f32([1], [4, 8]) }, 8),
      "checkpoint-offsets",
      '4 bytes between the start of the data section (byte 0) and tensor "a" (byte 4)',
    ],
    [
      "trailing bytes",
      () => rawFile({ a: f32([1], [0, 4]) }, 7),
      "checkpoint-trailing",
      "3 bytes after the last tensor (byte 4 of 7) belong to no tensor. The file was appended to or its header is wrong: fetch or save it again.",
    ],
    [
      "a name of 5000 letters, shortened",
      () => rawFile({ ["n".repeat(5000)]: null }),
      "checkpoint-header",
      `tensor "${"n".repeat(117)}..." must be`,
    ],
  ];
  test.each(cases)("%s", (_, make, code, message) => {
    const file = make();
    const refused = refusal(() => openSafetensors(file));
    expect(refused.code).toBe(code);
    expect(refused.message).toContain(message);
    expect(refused.message.startsWith(file.replace(directory, "…"))).toBe(true);
  });
});
