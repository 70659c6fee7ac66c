import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, mutated, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { Tokenizer } from "../../inputs/text/tokenizer.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { openCheckpoint } from "../hf-directory.ts";
import { GgufFile } from "./gguf-file.ts";
import { ggufStorage } from "./open-gguf.ts";
import { ggufTokenizer } from "./tokenizer.ts";

/** Files, and the places of their headers, where every byte means something. */
const originals = ["blocks", "llama-quantized", "tokenizer-llama", "tokenizer-smollm"].map((name) => {
  const file = join("tests/fixtures/gguf-tiny", `${name}.gguf`);
  const bytes = readFileSync(file);
  const header = Math.min(bytes.length, ...[...GgufFile.open(file).tensors.values()].map(({ offset }) => offset));
  return { bytes, header: Array.from({ length: header }, (_, i) => i) };
});
const directory = fuzzDirectory();
const outcomes = tally();

/** Everything that can be asked of a file: each part gives a result or a typed refusal that names the file, soon and in little memory. */
function exercise(bytes: Uint8Array): void {
  const file = join(directory.path, "fuzz.gguf");
  writeFileSync(file, bytes);
  // Every tensor once in the file's bytes and once as float32, which is up to eight times as many; and the reader's windows and tables.
  const demands = { names: file, bytes: bytes.length, buffers: 16 * bytes.length + 4e6 };
  const part = (run: () => void) => outcomes.count(attempt(demands, run));
  part(() => {
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
  part(() => {
    for (const storage of openCheckpoint(file).tensors.values()) expect(readStorage(storage)).toBeDefined();
  });
  part(() => {
    const { tokenizer, config } = ggufTokenizer(GgufFile.open(file));
    Tokenizer.fromJson(tokenizer, config, file);
  });
}

test("any mutation of a real file gives results or refusals that name the file", { timeout }, () => {
  fc.assert(
    fc.property(fc.constantFrom(...originals.keys()), byteMutations, fc.boolean(), (index, mutations, anywhere) => {
      const { bytes, header } = originals[index]!;
      exercise(mutated(bytes, mutations, anywhere ? undefined : header));
    }),
    { numRuns },
  );
  outcomes.expectBoth(1 / 20);
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
