/** `write-checkpoint.ts <directory> <shape> <layers> <dtype>`: writes a random checkpoint, tensor by tensor, and prints the size of its weights in bytes. */
import { saveCheckpoint } from "../src/checkpoints/index.ts";
import { converted, dtypeSize, elementCount, Random, type Storage } from "../src/graph/index.ts";
import { familyOf } from "../src/models/index.ts";
import { type ShapeName, shapes } from "./shapes.ts";

const [directory, shape, layers, dtype] = process.argv.slice(2) as [string, ShapeName, string, "float32" | "bfloat16"];
const json = { ...shapes[shape], num_hidden_layers: Number(layers), dtype };
const family = familyOf(json, shape);
const config = family.readConfig(json, shape);
const labels = Object.values("id2label" in json ? json.id2label : {});
const model = family.causalLM?.(config) ?? family.sequenceClassifier?.(config, labels.length) ?? family.imageClassifier!(config, labels);
const random = new Random(0);
const noise = Float32Array.from({ length: 1 << 20 }, () => random.normal() * 0.02);
let bytes = 0;
const tensors = new Map<string, Storage>();
for (const [name, { shape }] of model.namedParameters()) {
  const load = () => {
    const data = new Float32Array(elementCount(shape));
    if (shape.length === 1) return data.fill(name.endsWith("bias") ? 0 : 1);
    for (let i = 0; i < data.length; i += noise.length) data.set(noise.subarray(0, Math.min(noise.length, data.length - i)), i);
    return data;
  };
  bytes += elementCount(shape) * dtypeSize[dtype];
  tensors.set(name, converted({ kind: "lazy", dtype: "float32", shape, load }, dtype));
}
saveCheckpoint(directory, { config: json, tensors });
console.log(bytes);
