import { Random, trace } from "../../graph/index.ts";
import { CausalLM, type SequenceClassifier } from "../../models/causal-lm.ts";
import type { Device } from "../../runtime/index.ts";
import { hostTensor } from "../../runtime/index.ts";

/** The logits of a small batch of random tokens, always the same ones: what they become tells what was done to a model. */
export async function probeLogits(model: CausalLM | SequenceClassifier, device: Device): Promise<Float32Array> {
  const [rows, time] = [2, Math.min(16, model.contextLength)];
  const random = new Random(0);
  const data = BigInt64Array.from({ length: rows * time }, () => BigInt(Math.floor(random.uniform() * model.config.vocab_size)));
  const feeds = {
    ids: hostTensor("int64", [rows, time], data),
    lengths: hostTensor("int64", [rows], new BigInt64Array(rows).fill(BigInt(time))),
  };
  const program = await device.compile(
    trace(feeds, ({ ids, lengths }) => ({
      logits: model instanceof CausalLM ? model.logits(model.forward({ ids }).hidden) : model.forward(ids, lengths),
    })),
  );
  try {
    return ((await program.run(feeds)).logits!.data as Float32Array).slice();
  } finally {
    await program.dispose();
  }
}

/** The largest difference of two results, element by element. */
export const largestChange = (a: Float32Array, b: Float32Array): number =>
  a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
