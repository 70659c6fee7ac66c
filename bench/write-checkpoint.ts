/** Writes a random float32 checkpoint of N layers for the bench open-model and prints its size in bytes. */
import { saveCheckpoint } from "../src/checkpoints/index.ts";
import { elementCount, Random, type Storage } from "../src/graph/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/llama.ts";

const [directory, layers] = process.argv.slice(2) as [string, string];
const config = llamaConfigSchema.parse({
  vocab_size: 16384,
  hidden_size: 640,
  intermediate_size: 1792,
  num_hidden_layers: Number(layers),
  num_attention_heads: 10,
  num_key_value_heads: 5,
  tie_word_embeddings: true,
});
const random = new Random(0);
const noise = Float32Array.from({ length: 1 << 20 }, () => random.normal() * 0.02);
let bytes = 0;
const tensors = new Map<string, Storage>();
for (const [name, p] of new LlamaForCausalLM(config).namedParameters()) {
  const data = new Float32Array(elementCount(p.shape));
  for (let i = 0; i < data.length; i += noise.length) data.set(noise.subarray(0, Math.min(noise.length, data.length - i)), i);
  bytes += data.byteLength;
  tensors.set(name, { kind: "memory", dtype: "float32", shape: p.shape, data });
}
saveCheckpoint(directory, { config, tensors });
console.log(bytes);
