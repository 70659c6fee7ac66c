import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, jsonChanges, mutated, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { dtypeSize } from "../graph/dtype.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { findDuplicateKey } from "./duplicate-key.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { parseHeader } from "./safetensors-header.ts";

const original = readFileSync("tests/fixtures/dtypes/all.safetensors");
const headerEnd = 8 + Number(original.readBigUInt64LE(0));
const headerPlaces = Array.from({ length: headerEnd }, (_, i) => i);
const directory = fuzzDirectory();

/** Opens the bytes and reads every tensor, which must lie where it says. */
function open(bytes: Uint8Array): Outcome {
  const file = join(directory.path, "fuzz.safetensors");
  writeFileSync(file, bytes);
  return attempt({ names: file, bytes: bytes.length }, () => {
    for (const storage of openSafetensors(file).tensors.values()) {
      expect(storage.file).toBe(file);
      expect(storage.offset + storage.byteLength).toBeLessThanOrEqual(bytes.length);
      const count = storage.shape.reduce((product, dimension) => product * dimension, 1);
      expect(readStorage(storage).length).toBe(count);
      expect(storage.byteLength).toBe(count * dtypeSize[storage.dtype]);
    }
  });
}

/** A file with this header, its length told rightly, and `data` behind it. */
function withHeader(json: string | Uint8Array, data: Uint8Array): Buffer {
  const header = Buffer.from(json);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, data]);
}

test("any mutation of a real file is refused with an EspalierError or opens to tensors inside the file", { timeout }, () => {
  const outcomes = tally();
  fc.assert(
    fc.property(byteMutations, fc.boolean(), (mutations, anywhere) =>
      outcomes.count(open(mutated(original, mutations, anywhere ? undefined : headerPlaces))),
    ),
    { numRuns },
  );
  outcomes.expectBoth(1 / 250);
});

test("any change of a real header", { timeout }, () => {
  const outcomes = tally();
  const data = original.subarray(headerEnd);
  fc.assert(
    fc.property(jsonChanges(original.toString("utf8", 8, headerEnd).trimEnd()), (header) => outcomes.count(open(withHeader(header, data)))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("arbitrary bytes", { timeout }, () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, honestLength) => {
      if (honestLength && bytes.length >= 8) new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(bytes.length - 8), true);
      open(bytes);
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
      attempt({ names: "fuzz.safetensors", bytes: text.length + dataBytes }, () => {
        const { tensors } = parseHeader(text, dataBytes, "fuzz.safetensors");
        const claimed = [...tensors.values()].reduce((sum, { begin, end }) => sum + end - begin, 0);
        expect(claimed).toBe(dataBytes);
      });
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
      const opened = writeSafetensors(join(directory.path, "trip.safetensors"), tensors, strings);
      expect(opened.metadata).toEqual(strings);
      expect(opened.tensors.size).toBe(tensors.size);
      for (const [name, { data }] of tensors) expect(readStorage(opened.tensors.get(name)!)).toEqual(data);
    }),
    // Each run flushes a file to the disk.
    { numRuns: Math.min(numRuns / 5, 1000) },
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
