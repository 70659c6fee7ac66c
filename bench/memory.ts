/**
 * Predicted against measured memory: configurations of several models, methods, sizes and dtypes, each in a process of its own, which predicts its peak from
 * the traced step and then runs it. The same for the time of a step, where steps are timed.
 */
import { spawnSync } from "node:child_process";
import { median, round } from "./machine.ts";
import type { MemorySpec } from "./memory-run.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { layersOf, smoke as smokeSize } from "./shapes.ts";

const adapter = { rank: 8, targets: ["q_proj", "v_proj"] };
const encoderAdapter = { rank: 8, targets: ["query", "value"] };
const smol = { shape: "SmolLM2-135M", batch: 4, time: 256, lora: adapter } as const;
const llama = { shape: "Llama-30M", batch: 8, time: 256 } as const;

export const configurations: Readonly<Record<string, MemorySpec>> = {
  "30M full": llama,
  "30M full, rematerialised": { ...llama, rematerialise: true },
  "30M full, 4 × (2 × 256)": { ...llama, batch: 2, accumulate: 4 },
  "30M full, int8 state": { ...llama, stateDtype: "int8" },
  "30M LoRA, 16 × 128": { ...llama, batch: 16, time: 128, lora: adapter },
  "135M LoRA": smol,
  "135M LoRA, rematerialised": { ...smol, rematerialise: true },
  "135M LoRA, 8 × 512": { ...smol, batch: 8, time: 512 },
  "135M LoRA, 8 × 512, rematerialised": { ...smol, batch: 8, time: 512, rematerialise: true },
  "135M LoRA, int8 base": { ...smol, baseDtype: "int8" },
  "135M LoRA, int4 base, rematerialised": { ...smol, baseDtype: "int4", rematerialise: true },
  "135M LoRA, bf16 base": { ...smol, baseDtype: "bf16" },
  "135M full": { ...smol, lora: undefined },
  "135M full, rematerialised": { ...smol, lora: undefined, rematerialise: true },
  "BERT-base LoRA, 16 × 128": { shape: "BERT-base", batch: 16, time: 128, lora: encoderAdapter },
  "BERT-base LoRA, rematerialised": { shape: "BERT-base", batch: 16, time: 128, lora: encoderAdapter, rematerialise: true },
  "ViT-S/16 LoRA, 32 images": { shape: "ViT-S/16", batch: 32, lora: encoderAdapter },
};

const full = { ...smol, lora: undefined };
const again = { rematerialise: true };
export const combinations: Readonly<Record<string, MemorySpec>> = {
  LoRA: smol,
  "LoRA, whole logits": { ...smol, wholeLogits: true },
  "LoRA, bf16 base": { ...smol, baseDtype: "bf16" },
  "LoRA, int8 base": { ...smol, baseDtype: "int8" },
  "LoRA, int4 base": { ...smol, baseDtype: "int4" },
  "LoRA, rematerialised": { ...smol, ...again },
  "LoRA, rematerialised, whole logits": { ...smol, ...again, wholeLogits: true },
  "LoRA, rematerialised, bf16 base": { ...smol, ...again, baseDtype: "bf16" },
  "LoRA, rematerialised, int8 base": { ...smol, ...again, baseDtype: "int8" },
  "LoRA, rematerialised, int4 base": { ...smol, ...again, baseDtype: "int4" },
  full,
  "full, int8 state": { ...full, stateDtype: "int8" },
  "full, rematerialised": { ...full, ...again },
  "full, rematerialised, int8 state": { ...full, ...again, stateDtype: "int8" },
};

interface Measured {
  predictedBytes: number;
  peakBytes: number;
  heldBytes: number;
  frozenBytes: number;
  stateBytes: number;
  activationBytes: number;
  liveBytes: number;
  seconds?: number;
}

export interface MemoryBenchOptions {
  smoke: boolean;
  /** Timed steps. */
  repeats: number;
}

/** The validation: many models and ways to train them. */
export const benchMemory = (options: MemoryBenchOptions) =>
  measureAll(options.smoke ? pick(configurations, "30M full", "ViT-S/16 LoRA, 32 images") : configurations, options);

/** The table of docs/memory.md: one model, and what each way to save memory does to memory and time. */
export const benchMemoryTable = (options: MemoryBenchOptions) =>
  measureAll(options.smoke ? pick(combinations, "LoRA", "full") : combinations, options);

async function measureAll(chosen: Readonly<Record<string, MemorySpec>>, { smoke, repeats }: MemoryBenchOptions) {
  const rows: Record<string, Record<string, number>> = {};
  const sized = Object.entries(chosen).map(([name, spec]) => [name, smoke ? smokeSize(spec) : spec] as const);
  const checkpoint = (spec: MemorySpec) => `${spec.shape}/${layersOf(spec)}`;
  for (const shape of new Set(sized.map(([, spec]) => checkpoint(spec)))) {
    const own = sized.filter(([, spec]) => checkpoint(spec) === shape);
    const { directory, remove } = randomCheckpoint(own[0]![1].shape, layersOf(own[0]![1]), "float32");
    try {
      for (const [name, spec] of own) {
        const m = measureMemory(directory, { ...spec, timed: smoke ? 1 : repeats });
        rows[name] = { ...inMegabytes(m), deviation: round(m.predictedBytes / m.peakBytes - 1, 3), ...timeOf(m) };
        process.stderr.write(`${name}: ${JSON.stringify(rows[name])}\n`);
      }
    } finally {
      remove();
    }
  }
  const deviations = Object.values(rows).map(({ deviation }) => Math.abs(deviation!));
  return { largestDeviation: Math.max(...deviations), medianDeviation: round(median(deviations), 3), configurations: rows };
}

const pick = (from: Readonly<Record<string, MemorySpec>>, ...names: string[]) =>
  Object.fromEntries(names.map((name) => [name, from[name]!]));

const inMegabytes = (m: Measured) => {
  const mb = (bytes: number) => Math.round(bytes / 1e6);
  return {
    predictedMB: mb(m.predictedBytes),
    peakMB: mb(m.peakBytes),
    weightsMB: mb(m.frozenBytes),
    stateMB: mb(m.stateBytes),
    valuesMB: mb(m.activationBytes),
    liveMB: mb(m.liveBytes),
  };
};

const timeOf = ({ seconds }: Measured): Record<string, number> => (seconds ? { stepSeconds: round(seconds, 3) } : {});

/** One configuration in a process of its own, on random weights. */
export function measureMemory(directory: string, spec: MemorySpec): Measured {
  const args = ["--expose-gc", "--import", "tsx", "bench/memory-run.ts", directory, JSON.stringify(spec)];
  const run = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`memory-run ${JSON.stringify(spec)}: ${run.stderr}`);
  return JSON.parse(run.stdout.trim().split("\n").at(-1)!) as Measured;
}
