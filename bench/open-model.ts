/**
 * Opening a base model of 400 MB in float32: time and anonymous memory of the first session on it and of a second one. The weights are mapped
 * from the safetensors file, so neither should cost the size of the model.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { saveCheckpoint } from "../src/checkpoints/index.ts";
import { elementCount, Random, type Storage, trace } from "../src/graph/index.ts";
import { loadCausalLM } from "../src/models/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/llama.ts";
import { type Device, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";

export async function benchOpenModel(options: { smoke: boolean }): Promise<Record<string, unknown>> {
  const config = llamaConfigSchema.parse({
    vocab_size: 16384,
    hidden_size: 640,
    intermediate_size: 1792,
    num_hidden_layers: options.smoke ? 2 : 20,
    num_attention_heads: 10,
    num_key_value_heads: 5,
    tie_word_embeddings: true,
  });
  const directory = mkdtempSync(join(tmpdir(), "espalier-bench-"));
  try {
    const bytes = writeRandomCheckpoint(directory, config);
    const device = cpu();
    await openAndRun(device, await tinyModel()); // the runtime itself: library code, thread pool
    const before = anonymousMemory();
    const first = await openSession(device, directory);
    const afterFirst = anonymousMemory();
    const second = await openSession(device, directory);
    const afterSecond = anonymousMemory();
    return {
      modelMB: Math.round(bytes / 1e6),
      openMilliseconds: Math.round(first.milliseconds),
      ofWhich: first.parts,
      anonymousMB: mb(afterFirst - before),
      secondOpenMilliseconds: Math.round(second.milliseconds),
      secondAnonymousMB: mb(afterSecond - afterFirst),
      firstTokenMilliseconds: Math.round(await first.run()),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function writeRandomCheckpoint(directory: string, config: ReturnType<typeof llamaConfigSchema.parse>): number {
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
  return bytes;
}

async function openSession(device: Device, directory: string) {
  const started = performance.now();
  const model = loadCausalLM(directory).freeze();
  const loaded = performance.now();
  const program = await device.compile(lastTokenProgram(model));
  const ended = performance.now();
  const ids = hostTensor(
    "int64",
    [1, 8],
    BigInt64Array.from({ length: 8 }, (_, i) => BigInt(i + 3)),
  );
  return {
    milliseconds: ended - started,
    parts: { read: Math.round(loaded - started), traceAndCompile: Math.round(ended - loaded) },
    async run() {
      const t = performance.now();
      await program.run({ ids });
      return performance.now() - t;
    },
  };
}

const lastTokenProgram = (model: LlamaForCausalLM) =>
  trace({ ids: { dtype: "int64", shape: [1, 8] } }, ({ ids }) => ({ logits: model.logits(model.forward({ ids }).hidden) }));

async function tinyModel(): Promise<LlamaForCausalLM> {
  return new LlamaForCausalLM(
    llamaConfigSchema.parse({
      vocab_size: 64,
      hidden_size: 64,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 1,
      max_position_embeddings: 16,
    }),
  ).freeze();
}

async function openAndRun(device: Device, model: LlamaForCausalLM): Promise<void> {
  const program = await device.compile(lastTokenProgram(model));
  await program.run({ ids: hostTensor("int64", [1, 8], new BigInt64Array(8)) });
}

/** Memory of this process that no file backs, in bytes (Linux). */
function anonymousMemory(): number {
  global.gc?.();
  return Number(/RssAnon:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
}

const mb = (bytes: number): number => Number((bytes / 1e6).toFixed(1));
