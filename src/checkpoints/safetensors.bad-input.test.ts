import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { refusal } from "./refusal.ts";
import { openSafetensors } from "./safetensors.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-safetensors-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** A file made by hand: header (latin1 when a string), then zeros. */
function rawFile(header: unknown, dataBytes = 0, options: { announced?: bigint } = {}): string {
  const text = typeof header === "string" ? Buffer.from(header, "latin1") : Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(options.announced ?? BigInt(text.length));
  const file = join(directory, "raw.safetensors");
  writeFileSync(file, Buffer.concat([prefix, text, Buffer.alloc(dataBytes)]));
  return file;
}

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
    const refused = refusal(() => openSafetensors(file), directory);
    expect(refused.code).toBe(code);
    expect(refused.message).toContain(message);
    expect(refused.message.startsWith(file.replace(directory, "…"))).toBe(true);
  });
});
