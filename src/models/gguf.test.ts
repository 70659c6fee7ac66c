/** GGUF files through the loader: what transformers computes with the values that are in them. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openSafetensors, readStorage } from "../checkpoints/index.ts";
import { trace } from "../graph/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import type { CausalLM } from "./causal-lm.ts";
import { loadCausalLM } from "./load.ts";
import { saveModel } from "./save.ts";

const fixtures = new URL("../../tests/fixtures/gguf-tiny/", import.meta.url).pathname;
const expected = openSafetensors(join(fixtures, "expected.safetensors")).tensors;
const device = cpu({ threads: 1 });

async function logitsOf(model: CausalLM): Promise<Float32Array> {
  const ids = readStorage(expected.get("input_ids")!) as BigInt64Array;
  const shape = [1, ids.length];
  const traced = trace({ ids: { dtype: "int64", shape } }, (inputs) => ({ logits: model.logits(model.forward(inputs).hidden) }));
  const program = await device.compile(traced);
  const { logits } = await program.run({ ids: hostTensor("int64", shape, ids) });
  await program.dispose();
  return logits!.data as Float32Array;
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);

test.each(["llama-f32", "llama-16bit", "llama-quantized", "llama-k", "qwen2", "qwen3"])(
  "%s: logits equal transformers' on the same values",
  async (name) => {
    for (const frozen of [true, false]) {
      const model = loadCausalLM(join(fixtures, `${name}.gguf`));
      if (frozen) model.freeze();
      const reference = readStorage(expected.get(`${name}.logits`)!) as Float32Array;
      const logits = await logitsOf(model);
      expect(logits.length).toBe(reference.length);
      expect(largestDifference(logits, reference)).toBeLessThan(1e-4);
    }
  },
);

test("a model from a GGUF file is saved as a directory with its tokenizer, and loads from there", async () => {
  const source = join(fixtures, "llama-quantized.gguf");
  const directory = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
  try {
    saveModel(directory, loadCausalLM(source), { source });
    const again = loadCausalLM(directory);
    again.freeze();
    expect(largestDifference(await logitsOf(again), readStorage(expected.get("llama-quantized.logits")!) as Float32Array)).toBeLessThan(
      1e-4,
    );
    const [before, after] = [await tokenizerFromDirectory(source), await tokenizerFromDirectory(directory)];
    expect(after.encode("The gardener's 12 trees")).toEqual(before.encode("The gardener's 12 trees"));
    expect(after.eosId).toBe(2);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
