/** `write-checkpoint.ts <directory> <shape> <layers> <dtype>`: writes a random Llama checkpoint, tensor by tensor, and prints the size of its weights in bytes. */
import { saveCheckpoint } from "../src/checkpoints/index.ts";
import { converted, dtypeSize, elementCount, Random, type Storage } from "../src/graph/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/families/llama.ts";

const smol = { hidden_size: 576, intermediate_size: 1536, num_attention_heads: 9, num_key_value_heads: 3 };
const shapes = {
  wide: { vocab_size: 16384, hidden_size: 640, intermediate_size: 1792, num_attention_heads: 10, num_key_value_heads: 5 },
  "SmolLM2-135M": { ...smol, vocab_size: 49152 },
  "SmolLM2-135M, vocabulary 8192": { ...smol, vocab_size: 8192 },
};

const [directory, shape, layers, dtype] = process.argv.slice(2) as [string, keyof typeof shapes, string, "float32" | "bfloat16"];
const config = llamaConfigSchema.parse({
  ...shapes[shape],
  num_hidden_layers: Number(layers),
  max_position_embeddings: 2048,
  tie_word_embeddings: true,
  architectures: ["LlamaForCausalLM"],
  dtype,
});
const random = new Random(0);
const noise = Float32Array.from({ length: 1 << 20 }, () => random.normal() * 0.02);
let bytes = 0;
const tensors = new Map<string, Storage>();
for (const [name, { shape }] of new LlamaForCausalLM(config).namedParameters()) {
  const load = () => {
    const data = new Float32Array(elementCount(shape));
    for (let i = 0; i < data.length; i += noise.length) data.set(noise.subarray(0, Math.min(noise.length, data.length - i)), i);
    return data;
  };
  bytes += elementCount(shape) * dtypeSize[dtype];
  tensors.set(name, converted({ kind: "lazy", dtype: "float32", shape, load }, dtype));
}
saveCheckpoint(directory, { config, tensors });
console.log(bytes);
