/**
 * Opening a base model of 400 MB in float32: time and anonymous memory of the first session on it and of further ones (median of five). The weights are mapped
 * from the safetensors file, so neither should cost the size of the model.
 */
import { readFileSync } from "node:fs";
import { trace } from "../src/graph/index.ts";
import type { CausalLM } from "../src/models/causal-lm.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../src/models/families/llama.ts";
import { loadCausalLM } from "../src/models/index.ts";
import { type Device, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { median } from "./machine.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";

export async function benchOpenModel(options: { smoke: boolean }): Promise<Record<string, unknown>> {
  const { directory, bytes, remove } = randomCheckpoint("wide", options.smoke ? 2 : 20, "float32");
  try {
    const device = cpu();
    await openAndRun(device, await tinyModel()); // the runtime itself: library code, thread pool
    const before = anonymousMemory();
    const first = await openSession(device, directory);
    const afterFirst = anonymousMemory();
    // Several further sessions: the JavaScript heap grows by leaps that are no session's own.
    const further: { milliseconds: number; bytes: number }[] = [];
    for (let i = 0; i < 5; i++) {
      const from = anonymousMemory();
      const { milliseconds } = await openSession(device, directory);
      further.push({ milliseconds, bytes: anonymousMemory() - from });
    }
    return {
      modelMB: Math.round(bytes / 1e6),
      openMilliseconds: Math.round(first.milliseconds),
      ofWhich: first.parts,
      anonymousMB: mb(afterFirst - before),
      furtherOpenMilliseconds: Math.round(median(further.map((f) => f.milliseconds))),
      furtherAnonymousMB: mb(median(further.map((f) => f.bytes))),
      firstTokenMilliseconds: Math.round(await first.run()),
    };
  } finally {
    remove();
  }
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

const lastTokenProgram = (model: CausalLM) =>
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

async function openAndRun(device: Device, model: CausalLM): Promise<void> {
  const program = await device.compile(lastTokenProgram(model));
  await program.run({ ids: hostTensor("int64", [1, 8], new BigInt64Array(8)) });
}

/** Memory of this process that no file backs, in bytes (Linux). */
function anonymousMemory(): number {
  global.gc?.();
  return Number(/RssAnon:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
}

const mb = (bytes: number): number => Number((bytes / 1e6).toFixed(1));
