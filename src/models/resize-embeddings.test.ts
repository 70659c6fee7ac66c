import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readStorage } from "../checkpoints/index.ts";
import { trace } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import type { CausalLM } from "./causal-lm.ts";
import { loadCausalLM, resizeTokenEmbeddings, saveModel } from "./index.ts";

const device = cpu({ threads: 1 });
const ids = hostTensor("int64", [1, 3], BigInt64Array.of(5n, 60n, 90n));

async function logits(model: CausalLM): Promise<Float32Array> {
  const program = await device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
  return (await program.run({ ids })).y!.data as Float32Array;
}

const rowsOf = (parameter: Parameter) => readStorage(parameter.storage, "float32") as Float32Array;

test.each(["llama-tiny", "llama-tiny-tied", "decoder-gemma3"])(
  "%s: new rows are the mean of the old ones, and old tokens' logits stay",
  async (name) => {
    const directory = mkdtempSync(join(tmpdir(), "espalier-resize-"));
    try {
      const source = join("tests/fixtures", name);
      const model = loadCausalLM(source);
      const before = await logits(model);
      const old = rowsOf(model.decoder.embedding.weight);
      const [vocabulary, width] = model.decoder.embedding.weight.shape as [number, number];
      resizeTokenEmbeddings(model, vocabulary + 3);
      const table = rowsOf(model.decoder.embedding.weight);
      expect(table.subarray(0, old.length)).toEqual(old);
      for (let i = 0; i < width; i++) {
        const mean = old.reduce((sum, v, k) => sum + (k % width === i ? v : 0), 0) / vocabulary;
        for (let row = vocabulary; row < vocabulary + 3; row++) expect(table[row * width + i]!).toBeCloseTo(mean, 6);
      }
      const after = await logits(model);
      const kept = Float32Array.from(before, (_, i) => after[Math.floor(i / vocabulary) * (vocabulary + 3) + (i % vocabulary)]!);
      expect(Math.max(...kept.map((v, i) => Math.abs(v - before[i]!)))).toBeLessThan(1e-5);
      saveModel(directory, model, { source });
      expect(JSON.parse(readFileSync(join(directory, "config.json"), "utf8"))).toMatchObject({ vocab_size: vocabulary + 3 });
      const saved = loadCausalLM(directory);
      expect(await logits(saved)).toEqual(after);
      resizeTokenEmbeddings(saved, vocabulary);
      expect(await logits(saved)).toEqual(before);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
);

test("sizes that are none are refused", () => {
  expect(() => resizeTokenEmbeddings(loadCausalLM("tests/fixtures/llama-tiny"), 12.5)).toThrow(
    /An embedding of 12\.5 tokens cannot be made/,
  );
});
