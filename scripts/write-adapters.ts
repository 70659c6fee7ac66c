/**
 * Writes an adapter of every kind, with random values, and the logits that Espalier computes with it: what `scripts/check-peft.py --all` compares with
 * Hugging Face PEFT.
 *
 *     npx tsx scripts/write-adapters.ts <directory>
 */
import { join, resolve } from "node:path";
import { writeJson, writeSafetensors } from "../src/checkpoints/index.ts";
import { Random, trace } from "../src/graph/index.ts";
import { AdapterSet, ia3, loadAdapter, lora, prefixTuning, promptTuning, pTuning } from "../src/methods/index.ts";
import { type CausalLM, loadCausalLM, loadSequenceClassifier, type SequenceClassifier } from "../src/models/index.ts";
import { floats } from "../src/nn/index.ts";
import { hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { readStorage } from "../src/runtime/stored-values.ts";
import { applyWeights, type Method } from "../src/train/method.ts";

const [output] = process.argv.slice(2);
if (output === undefined) throw new Error("Say where: npx tsx scripts/write-adapters.ts <directory>");
const fixtures = resolve(import.meta.dirname, "../tests/fixtures");
const device = cpu({ threads: 1 });
const rows = [
  [5, 60, 17, 33, 8, 91, 4, 22],
  [44, 3, 70, 12, 9, 9, 85, 31],
];

async function logits(model: CausalLM | SequenceClassifier): Promise<{ shape: readonly number[]; data: Float32Array }> {
  const ids = hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
  const lengths = hostTensor("int64", [rows.length], new BigInt64Array(rows.length).fill(BigInt(rows[0]!.length)));
  const traced = trace({ ids, lengths }, (i) => ({
    y: "score" in model ? (model as SequenceClassifier).forward(i.ids, i.lengths) : causal(model as CausalLM, i.ids),
  }));
  const { y } = await (await device.compile(traced)).run({ ids, lengths });
  return { shape: y!.shape, data: y!.data as Float32Array };
}

const causal = (model: CausalLM, ids: Parameters<CausalLM["forward"]>[0]["ids"]) => model.logits(model.forward({ ids }).hidden);

async function record(name: string, base: string, model: CausalLM | SequenceClassifier): Promise<void> {
  const { shape, data } = await logits(model);
  writeSafetensors(join(output!, name, "espalier.safetensors"), { logits: floats(shape, data) });
  writeJson(join(output!, name, "espalier.json"), { base: join(fixtures, base), input_ids: rows });
}

async function write(name: string, base: string, method: Method, labels?: readonly string[]): Promise<void> {
  const source = join(fixtures, base);
  const model = labels ? loadSequenceClassifier(source, labels) : loadCausalLM(source);
  applyWeights(model, [method]);
  const random = new Random(7);
  const parameters = model.trainableParameters();
  for (const parameter of parameters) {
    const values = readStorage(parameter.storage, "float32") as Float32Array;
    parameter.storage = floats(
      parameter.shape,
      values.map((value) => value + 0.2 * random.normal()),
    );
  }
  await method.save!(join(output!, name), { model, base: source, parameters, device });
  await record(name, base, model);
}

const llama = "llama-tiny";
const gpt2 = "decoder-gpt2";
await write("lora", llama, lora({ rank: 4 }));
await write("lora-all-linear", llama, lora({ rank: 2, targets: "all-linear" }));
await write(
  "lora-patterns",
  llama,
  lora({
    rank: 4,
    targets: ["q_proj", "v_proj", "down_proj"],
    exclude: ["layers.0.self_attn.v_proj"],
    rankPattern: { down_proj: 2 },
    alphaPattern: { v_proj: 5 },
    rankStabilized: true,
  }),
);
await write("lora-layers", llama, lora({ rank: 2, layers: [1], updateBias: true }));
await write("dora", llama, lora({ rank: 4, targets: ["q_proj", "down_proj"], decomposed: true }));
await write("dora-gpt2", gpt2, lora({ rank: 3, targets: ["c_attn", "wte"], decomposed: true }));
await write("lora-gpt2-biases", gpt2, lora({ rank: 3, targets: ["c_attn", "mlp.c_proj"], bias: "all" }));
await write("lora-gpt2-own-biases", gpt2, lora({ rank: 3, targets: ["c_attn"], bias: "lora_only" }));
await write("lora-tied-head", "llama-tiny-tied", lora({ rank: 2, targets: ["q_proj", "embed_tokens", "lm_head"] }));
await write("lora-tied-in-full", "llama-tiny-tied", lora({ rank: 2, modulesToSave: ["embed_tokens", "lm_head"] }));
await write("lora-tokens", llama, lora({ rank: 2, tokens: [5, 9, 77] }));
await write("lora-tokens-tied", "llama-tiny-tied", lora({ rank: 2, tokens: [5, 9, 77] }));
await write("lora-classifier", llama, lora({ rank: 2 }), ["a", "b", "c"]);
await write("ia3", llama, ia3());
await write("ia3-gpt2", gpt2, ia3({ targets: ["c_attn", "mlp.c_proj"], feedForward: ["mlp.c_proj"] }));
await write("prompt", llama, promptTuning({ tokens: 5 }));
await write("prompt-gemma3", "decoder-gemma3", promptTuning({ tokens: 3 }));
await write("prompt-classifier", llama, promptTuning({ tokens: 3 }), ["a", "b", "c"]);
await write("p-mlp", llama, pTuning({ tokens: 4, hidden: 16 }));
await write("p-lstm", llama, pTuning({ tokens: 4, hidden: 8, encoder: "lstm" }));
await write("prefix", llama, prefixTuning({ tokens: 4 }));
await write("prefix-gpt2", gpt2, prefixTuning({ tokens: 3, projection: true, hidden: 12 }));
await write("prefix-mistral", "decoder-mistral", prefixTuning({ tokens: 3 }));

const combined = new AdapterSet(loadCausalLM(join(fixtures, llama)));
for (const name of ["a", "b", "c"]) combined.add(name, join(fixtures, "peft-combined", name));
for (const type of ["cat", "svd"] as const) {
  const parts = ["a", "b", "c"].map((adapter, i) => ({ adapter, weight: 0.7 - 0.9 * i }));
  combined.combine(type, parts, { type });
  combined.save(type, join(output, type));
  const model = loadCausalLM(join(fixtures, llama));
  loadAdapter(model, join(output, type));
  await record(type, llama, model);
}
await device.dispose();
