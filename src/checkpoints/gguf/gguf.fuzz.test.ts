import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { EspalierError } from "../../graph/errors.ts";
import { Tokenizer } from "../../inputs/text/tokenizer.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { openCheckpoint } from "../hf-directory.ts";
import { GgufFile } from "./gguf-file.ts";
import { ggufStorage } from "./open-gguf.ts";
import { ggufTokenizer } from "./tokenizer.ts";

/** ESPALIER_FUZZ=10000 for the long run. */
const numRuns = Number(process.env.ESPALIER_FUZZ ?? 500);
const timeout = 60_000 + numRuns * 50;

const fixtures = new URL("../../../tests/fixtures/gguf-tiny/", import.meta.url).pathname;
const originals = ["blocks", "llama-quantized", "tokenizer-llama", "tokenizer-smollm"].map((name) =>
  readFileSync(join(fixtures, `${name}.gguf`)),
);
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-fuzz-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const outcomes = { succeeded: 0, refused: 0 };

/** Everything that can be asked of a file: each part gives a result or a typed refusal that names the file, soon and in little memory. */
function exercise(bytes: Uint8Array): void {
  const file = join(directory, "fuzz.gguf");
  writeFileSync(file, bytes);
  const attempt = (run: () => void) => {
    const [start, before] = [performance.now(), process.memoryUsage()];
    try {
      run();
      outcomes.succeeded++;
    } catch (error) {
      if (!(error instanceof EspalierError)) throw error;
      expect(error.message).toContain(file);
      outcomes.refused++;
    }
    expect(performance.now() - start).toBeLessThan(1000);
    // Every tensor once in the file's bytes and once as float32, which is up to eight times as many; and the reader's windows and tables.
    expect(process.memoryUsage().arrayBuffers - before.arrayBuffers).toBeLessThan(16 * bytes.length + 4e6);
  };
  attempt(() => {
    const gguf = GgufFile.open(file);
    let values = 0;
    for (const tensor of gguf.tensors.values()) {
      const storage = ggufStorage(gguf, tensor);
      expect(tensor.offset + tensor.byteLength).toBeLessThanOrEqual(bytes.length);
      values += readStorage(storage).length;
    }
    // At most two values a byte (four bits each): float32s of eight times the file's size in all, computed one tensor at a time.
    expect(values).toBeLessThanOrEqual(2 * bytes.length);
  });
  attempt(() => {
    for (const storage of openCheckpoint(file).tensors.values()) expect(readStorage(storage)).toBeDefined();
  });
  attempt(() => {
    const { tokenizer, config } = ggufTokenizer(GgufFile.open(file));
    Tokenizer.fromJson(tokenizer, config, file);
  });
}

/** A place in the file as a share of its length; fast-check's doubles would nearly all be next to 0. */
const share = (largest: number) => fc.nat(1_000_000).map((n) => (largest * n) / 1_000_000);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("set" as const), at: share(1), byte: fc.nat(255) }),
  // The header is where every byte means something.
  fc.record({ kind: fc.constant("set" as const), at: share(0.05), byte: fc.constantFrom(0, 1, 8, 9, 127, 128, 255) }),
  fc.record({ kind: fc.constant("u64" as const), at: share(0.3), byte: fc.nat(64) }),
  fc.record({ kind: fc.constant("insert" as const), at: share(1), byte: fc.nat(255) }),
  fc.record({ kind: fc.constant("remove" as const), at: share(1), byte: fc.nat(64) }),
  fc.record({ kind: fc.constant("cut" as const), at: share(1), byte: fc.constant(0) }),
);

function mutated(
  original: Buffer,
  mutations: readonly { kind: "set" | "u64" | "insert" | "remove" | "cut"; at: number; byte: number }[],
): Buffer {
  let bytes = Buffer.from(original);
  for (const { kind, at, byte } of mutations) {
    const position = Math.floor(at * (bytes.length - 1));
    const rest = bytes.subarray(position);
    if (bytes.length < 9) break;
    if (kind === "set") bytes[position] = byte;
    else if (kind === "cut") bytes = Buffer.from(bytes.subarray(0, position));
    else if (kind === "u64") bytes.writeBigUInt64LE((1n << BigInt(byte)) - 1n, Math.min(position, bytes.length - 8));
    else
      bytes = Buffer.concat(
        [bytes.subarray(0, position), kind === "insert" ? Buffer.of(byte) : "", kind === "remove" ? rest.subarray(byte) : rest].map(
          (part) => Buffer.from(part),
        ),
      );
  }
  return bytes;
}

test("any mutation of a real file gives results or refusals that name the file", { timeout }, () => {
  fc.assert(
    fc.property(fc.constantFrom(...originals), fc.array(mutation, { minLength: 1, maxLength: 3 }), (original, mutations) => {
      exercise(mutated(original, mutations));
    }),
    { numRuns },
  );
  // Both happen, so the property is not true for nothing.
  expect(outcomes.succeeded).toBeGreaterThan(numRuns / 10);
  expect(outcomes.refused).toBeGreaterThan(numRuns / 10);
});

test("arbitrary bytes, with and without an honest beginning", { timeout }, () => {
  const beginning = Buffer.concat([Buffer.from("GGUF"), Buffer.of(3, 0, 0, 0)]);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(3), fc.nat(3), fc.boolean(), (bytes, tensors, keys, honest) => {
      const counts = Buffer.alloc(16);
      counts.writeUInt32LE(tensors, 0);
      counts.writeUInt32LE(keys, 8);
      exercise(honest ? Buffer.concat([beginning, counts, bytes]) : bytes);
    }),
    { numRuns },
  );
});
