import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { dtypeSize } from "../graph/dtype.ts";
import { EspalierError } from "../graph/errors.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { findDuplicateKey } from "./duplicate-key.ts";
import { parsePeftConfig, unsupportedPeftOptions } from "./peft-config.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { parseHeader } from "./safetensors-header.ts";

/** ESPALIER_FUZZ=10000 for the long run. */
const numRuns = Number(process.env.ESPALIER_FUZZ ?? 500);
const timeout = 60_000 + numRuns * 20;

const original = readFileSync(fileURLToPath(new URL("../../tests/fixtures/dtypes/all.safetensors", import.meta.url)));
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-fuzz-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Either a typed refusal, or a result whose every tensor can be read and lies where it says. */
function openOrRefuse(bytes: Uint8Array): "opened" | "refused" {
  const file = join(directory, "fuzz.safetensors");
  writeFileSync(file, bytes);
  let tensors: ReturnType<typeof openSafetensors>["tensors"];
  try {
    tensors = openSafetensors(file).tensors;
  } catch (error) {
    if (!(error instanceof EspalierError)) throw error;
    expect(error.message).toContain(file);
    return "refused";
  }
  const { size } = statSync(file);
  for (const storage of tensors.values()) {
    expect(storage.offset + storage.byteLength).toBeLessThanOrEqual(size);
    const count = storage.shape.reduce((product, dimension) => product * dimension, 1);
    expect(readStorage(storage).length).toBe(count);
    expect(storage.byteLength).toBe(count * dtypeSize[storage.dtype]);
  }
  return "opened";
}

const position = fc.nat(original.length - 1);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("set" as const), at: position, byte: fc.nat(255) }),
  // Digits, quotes and brackets of the header become other ones: the mutations that stay JSON.
  fc.record({ kind: fc.constant("set" as const), at: fc.nat(800), byte: fc.constantFrom(...Buffer.from('0123456789-.e,:"[]{} ')) }),
  fc.record({ kind: fc.constant("insert" as const), at: position, byte: fc.nat(255) }),
  fc.record({ kind: fc.constant("remove" as const), at: position, byte: fc.constant(0) }),
  fc.record({ kind: fc.constant("cut" as const), at: position, byte: fc.constant(0) }),
);

test("any mutation of a real file is refused with an EspalierError or opens to tensors inside the file", { timeout }, () => {
  const outcomes = { opened: 0, refused: 0 };
  fc.assert(
    fc.property(fc.array(mutation, { maxLength: 4 }), (mutations) => {
      let bytes = [...original];
      for (const { kind, at, byte } of mutations) {
        if (kind === "set") bytes[at] = byte;
        else if (kind === "cut") bytes = bytes.slice(0, at);
        else bytes.splice(at, kind === "remove" ? 1 : 0, ...(kind === "insert" ? [byte] : []));
      }
      outcomes[openOrRefuse(Uint8Array.from(bytes, (byte) => byte ?? 0))]++;
    }),
    { numRuns },
  );
  // Both happen, so the property is not true for nothing.
  expect(outcomes.opened).toBeGreaterThan(0);
  expect(outcomes.refused).toBeGreaterThan(0);
});

test("arbitrary bytes", { timeout }, () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, honestLength) => {
      if (honestLength && bytes.length >= 8) new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(bytes.length - 8), true);
      openOrRefuse(bytes);
    }),
    { numRuns },
  );
});

test("arbitrary headers that look right", { timeout }, () => {
  const small = fc.oneof(fc.nat(12), fc.integer(), fc.double(), fc.constantFrom(null, "4", 2 ** 53, 2 ** 31, -0));
  const entry = fc.record(
    {
      dtype: fc.constantFrom("F32", "F64", "BF16", "BOOL", "I8", "U16", "F4", "", "__proto__"),
      shape: fc.oneof(fc.array(small, { maxLength: 3 }), fc.jsonValue()),
      data_offsets: fc.oneof(fc.tuple(small, small), fc.array(small, { maxLength: 3 }), fc.jsonValue()),
    },
    { requiredKeys: [] },
  );
  const header = fc.dictionary(fc.oneof(fc.string(), fc.constantFrom("__proto__", "__metadata__", "a")), fc.oneof(entry, fc.jsonValue()), {
    maxKeys: 4,
  });
  fc.assert(
    fc.property(header, fc.nat(64), (value, dataBytes) => {
      const text = new TextEncoder().encode(JSON.stringify(value));
      try {
        const { tensors } = parseHeader(text, dataBytes, "fuzz");
        const claimed = [...tensors.values()].reduce((sum, { begin, end }) => sum + end - begin, 0);
        expect(claimed).toBe(dataBytes);
      } catch (error) {
        if (!(error instanceof EspalierError)) throw error;
      }
    }),
    { numRuns },
  );
});

test("any set of tensors survives a round trip", { timeout }, () => {
  const tensor = fc.array(fc.float(), { maxLength: 9 }).map((values) => {
    return { kind: "memory" as const, dtype: "float32" as const, shape: [values.length], data: Float32Array.from(values) };
  });
  const names = fc.string({ unit: "grapheme", maxLength: 20 }).filter((name) => name !== "__metadata__");
  const metadata = fc.dictionary(fc.string(), fc.string({ unit: "grapheme" }), { noNullPrototype: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(names, tensor), { maxLength: 6 }), metadata, (entries, strings) => {
      const tensors = new Map(entries);
      const opened = writeSafetensors(join(directory, "trip.safetensors"), tensors, strings);
      expect(opened.metadata).toEqual(strings);
      expect(opened.tensors.size).toBe(tensors.size);
      for (const [name, { data }] of tensors) expect(readStorage(opened.tensors.get(name)!)).toEqual(data);
    }),
    // Each run flushes a file to the disk.
    { numRuns: Math.min(numRuns, 1000) },
  );
});

test("a duplicate key is found in any JSON, and none where there is none", { timeout }, () => {
  fc.assert(
    fc.property(fc.json(), fc.string(), (json, key) => {
      expect(findDuplicateKey(json)).toBeUndefined();
      const literal = JSON.stringify(key);
      expect(findDuplicateKey(`{"outer":[${json},{${literal}:${json}, ${literal} :1}]}`)).toBe(key);
      expect(findDuplicateKey(`[{${literal}:${json}},{${literal}:${literal}}]`)).toBeUndefined();
    }),
    { numRuns },
  );
});

test("arbitrary adapter configurations", { timeout }, () => {
  const keys = fc.constantFrom(
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "bias",
    "rank_pattern",
    "use_dora",
    "init_lora_weights",
    "new_option",
  );
  const config = fc
    .dictionary(fc.oneof(keys, fc.string()), fc.jsonValue())
    .map((value) => ({ peft_type: "LORA", r: 8, lora_alpha: 16, ...value }));
  fc.assert(
    fc.property(fc.oneof(config, fc.jsonValue()), (value) => {
      try {
        const parsed = parsePeftConfig(value, "fuzz");
        unsupportedPeftOptions(parsed);
        expect(parsePeftConfig(JSON.parse(JSON.stringify(parsed)), "fuzz")).toEqual(JSON.parse(JSON.stringify(parsed)));
      } catch (error) {
        if (!(error instanceof EspalierError)) throw error;
      }
    }),
    { numRuns },
  );
});
