import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readStorage } from "../../runtime/stored-values.ts";
import { refusal } from "../refusal.ts";
import { openSafetensors } from "../safetensors.ts";
import { GgufFile } from "./gguf-file.ts";
import { ggufStorage } from "./open-gguf.ts";
import { writeGguf } from "./write-gguf.ts";

const fixtures = new URL("../../../tests/fixtures/gguf-tiny/", import.meta.url).pathname;
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("metadata", () => {
  const gguf = GgufFile.open(join(fixtures, "blocks.gguf"));

  test("values of every type are those that the gguf package wrote", () => {
    expect(gguf.boolean("a.bool")).toBe(true);
    expect(gguf.number("an.int8")).toBe(-8);
    expect(gguf.number("a.uint8")).toBe(200);
    expect(gguf.number("an.int16")).toBe(-1600);
    expect(gguf.number("a.uint16")).toBe(60000);
    expect(gguf.number("an.int32")).toBe(-(2 ** 31));
    expect(gguf.number("a.uint32")).toBe(2 ** 32 - 1);
    expect(gguf.number("an.int64")).toBe(-(2 ** 40));
    expect(gguf.number("a.float32")).toBe(Math.fround(1e-5));
    expect(gguf.number("a.float64")).toBe(1e-5);
    expect(gguf.string("a.string")).toBe("Äste 🌳");
    expect(gguf.strings("strings")).toEqual(["", "a", "Äste"]);
    expect(gguf.numbers("numbers")).toEqual([3, -1, 2]);
    expect(gguf.string("no.such.key")).toBeUndefined();
  });

  test("a value of another type is refused with the key and what it holds", () => {
    expect(refusal(() => gguf.string("numbers"), fixtures)).toEqual({
      code: "checkpoint-header",
      message:
        '…blocks.gguf: the key "numbers" must hold a string, not a list. The file is damaged or was written by a faulty converter: fetch or convert it again.',
    });
    // 2^64 − 1 is no exact number.
    expect(refusal(() => gguf.number("a.uint64")).message).toContain('must hold a number, not the bigint "18446744073709551615"');
    expect(refusal(() => gguf.strings("numbers")).message).toContain("a list of strings, not a list of another type");
    expect(refusal(() => gguf.count("an.int8")).message).toContain("a whole number ≥ 0, not -8");
  });
});

describe("quantised values", () => {
  const gguf = GgufFile.open(join(fixtures, "blocks.gguf"));
  const { tensors: expected } = openSafetensors(join(fixtures, "blocks.safetensors"));

  test.each([...expected.keys()])("%s equals the gguf package's values bit for bit", (name) => {
    const storage = ggufStorage(gguf, gguf.tensors.get(name)!);
    expect(storage.shape).toEqual([4, 256]);
    expect(readStorage(storage, "float32")).toEqual(readStorage(expected.get(name)!));
  });

  test("all types were there", () => {
    expect([...expected.keys()].sort()).toEqual(["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"]);
  });
});

describe("what is not a sound file", () => {
  /** The fixture with some bytes set. */
  function changed(at: number, ...bytes: number[]): string {
    const content = readFileSync(join(fixtures, "blocks.gguf"));
    content.set(bytes, at);
    const file = join(directory, "changed.gguf");
    writeFileSync(file, content);
    return file;
  }
  const open = (file: string) => refusal(() => GgufFile.open(file), `${directory}/`);

  test("another format, an empty file, a version that is not read, big-endian", () => {
    expect(open(changed(0, 0x50)).message).toContain('…changed.gguf: is not a GGUF file, it does not start with "GGUF".');
    writeFileSync(join(directory, "empty.gguf"), "");
    expect(open(join(directory, "empty.gguf")).code).toBe("checkpoint-header");
    expect(open(changed(4, 1)).message).toContain("has the GGUF version 1; Espalier reads little-endian files of the versions 2 and 3");
    expect(open(changed(4, 0, 0, 0, 3)).message).toContain("is a big-endian GGUF file");
  });

  test("a count larger than the file allocates nothing", () => {
    const { code, message } = open(changed(8, 255, 255, 255, 255, 255, 255, 255, 255));
    expect(code).toBe("checkpoint-truncated");
    expect(message).toMatch(
      /^…changed\.gguf: the number of tensors announces 18446744073709551615 entries of 24 bytes or more, but \d+ bytes are left/,
    );
  });

  test("a file that was cut short names the tensor that is not whole", () => {
    const content = readFileSync(join(fixtures, "blocks.gguf"));
    const file = join(directory, "short.gguf");
    writeFileSync(file, content.subarray(0, content.length - 100));
    expect(open(file)).toMatchObject({
      code: "checkpoint-truncated",
      message: expect.stringMatching(/tensor "Q6_K" ends at byte \d+, but the file has \d+/),
    });
    writeFileSync(file, content.subarray(0, 200));
    expect(open(file).code).toBe("checkpoint-truncated");
  });

  test("overlapping, misaligned and impossible tensors", () => {
    const file = join(directory, "two.gguf");
    const values = (shape: number[]) => ({ kind: "memory", dtype: "float32", shape, data: new Float32Array(16) }) as const;
    writeGguf(file, {}, new Map([["a", values([16])] as const, ["b", values([4, 4])] as const]));
    const content = readFileSync(file);
    const withNumber = (at: number, value: bigint) => {
      const copy = Buffer.from(content);
      copy.writeBigUInt64LE(value, at);
      writeFileSync(file, copy);
      return open(file);
    };
    // After a name: u32 dimensions, a u64 for each, u32 type, u64 offset.
    const [a, b] = [content.indexOf("a", 24) + 1, content.indexOf("b", 24) + 1];
    expect(withNumber(b + 24, 32n)).toMatchObject({ code: "checkpoint-offsets", message: expect.stringContaining('"a" and "b" overlap') });
    expect(withNumber(a + 16, 1n)).toMatchObject({
      code: "checkpoint-offsets",
      message: expect.stringMatching(/^…two\.gguf: tensor "a" lies at byte \d+, which is not a multiple of the file's alignment 32/),
    });
    expect(withNumber(b + 4, 2n ** 60n)).toMatchObject({
      code: "checkpoint-shape",
      message: expect.stringContaining('tensor "b" has the size 1152921504606846976 in dimension 0'),
    });
    expect(withNumber(b + 4, 2n ** 52n)).toMatchObject({
      code: "checkpoint-shape",
      message: expect.stringContaining("more values than any file holds"),
    });
  });

  test("a key or a tensor twice", () => {
    const file = join(directory, "twice.gguf");
    writeGguf(file, { "one.key": "x", "two.key": "y" }, new Map());
    const content = readFileSync(file);
    content.write("one", content.indexOf("two.key"));
    writeFileSync(file, content);
    expect(open(file)).toMatchObject({ code: "checkpoint-header", message: expect.stringContaining('has the key "one.key" twice') });
  });

  test("a type that is not read is named, with what to do", () => {
    const file = join(directory, "iq.gguf");
    writeGguf(file, {}, new Map([["w", { kind: "memory", dtype: "float32", shape: [256], data: new Float32Array(256) }]]));
    const content = readFileSync(file);
    content.writeUInt32LE(23, content.indexOf("w", 24) + 13);
    writeFileSync(file, content);
    const gguf = GgufFile.open(file);
    expect(refusal(() => ggufStorage(gguf, gguf.tensors.get("w")!), `${directory}/`)).toEqual({
      code: "checkpoint-dtype",
      message:
        '…iq.gguf: tensor "w" is IQ4_XS, which Espalier does not read. Take the model in another quantisation (F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16), or convert it with llama.cpp: llama-quantize --allow-requantize <this file> <new file> Q8_0.',
    });
  });
});

test("what is written is read again", () => {
  const file = join(directory, "written.gguf");
  const values = Float32Array.of(1, -2, 3, 4.5, 5, 6);
  const halves = Uint16Array.of(0x3c00, 0xc000);
  writeGguf(
    file,
    { "a.string": "Äste", "a.bool": true, "a.count": { uint32: 7 }, "a.float": { float32: 0.5 } },
    new Map([
      ["w", { kind: "memory", dtype: "float32", shape: [2, 3], data: values }],
      ["h", { kind: "memory", dtype: "float16", shape: [2], data: halves }],
    ]),
  );
  const gguf = GgufFile.open(file);
  expect(gguf.keys).toEqual(["a.string", "a.bool", "a.count", "a.float"]);
  expect([gguf.string("a.string"), gguf.boolean("a.bool"), gguf.count("a.count"), gguf.number("a.float")]).toEqual(["Äste", true, 7, 0.5]);
  const w = ggufStorage(gguf, gguf.tensors.get("w")!);
  expect(w).toMatchObject({ kind: "file", dtype: "float32", shape: [2, 3] });
  expect(readStorage(w)).toEqual(values);
  expect(readStorage(ggufStorage(gguf, gguf.tensors.get("h")!))).toEqual(halves);
});
