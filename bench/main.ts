/**
 * `npm run bench -- <name> [--json] [--smoke]`: figures as ratios within one run. The last line of `--json` is one JSON object.
 * `npm run bench -- --peer` runs every bench of a training step that PyTorch runs, too.
 */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { Command } from "commander";
import { benchBaseDtype } from "./base-dtype.ts";
import { benchBaseDtypeQuality } from "./base-dtype-quality.ts";
import { benchDataWait } from "./data-wait.ts";
import { benchDecode } from "./decode.ts";
import { benchFirstStep } from "./first-step.ts";
import { benchFirstToken } from "./first-token.ts";
import { machine } from "./machine.ts";
import { benchMemory, benchMemoryTable } from "./memory.ts";
import { benchOpenModel } from "./open-model.ts";
import { benchPacking } from "./packing.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { benchScaling } from "./scaling.ts";
import { type StepSpec, steps } from "./shapes.ts";
import { benchStep } from "./step.ts";

interface Flags {
  json?: boolean;
  smoke?: boolean;
  repeats: string;
  profile?: string;
  peer?: boolean;
  save?: boolean;
}

interface Bench {
  summary: string;
  /** A training step that is measured against PyTorch's. */
  peers?: boolean;
  run(flags: Flags): Promise<Record<string, unknown>>;
}

const step =
  (spec: StepSpec) =>
  ({ repeats, smoke = false, profile, peer }: Flags) =>
    benchStep(spec, { repeats: Number(repeats), smoke, profile, peer });

const benches: Readonly<Record<string, Bench>> = {
  "lora-step": {
    summary: "LoRA step of six Llama layers of SmolLM2-135M's shape as a share of the matmul peak",
    run: step(steps["lora-step"]),
  },
  "full-step": { summary: "the same in full training", run: step(steps["full-step"]) },
  "smollm2-lora": { summary: "LoRA step on the shape of SmolLM2-135M, 4 × 256 tokens", peers: true, run: step(steps["smollm2-lora"]) },
  "full-30m": { summary: "full training of a Llama of 30 M parameters, 8 × 256 tokens", peers: true, run: step(steps["full-30m"]) },
  "bert-lora": {
    summary: "LoRA step of a classifier on the shape of BERT-base, 16 × 128 tokens",
    peers: true,
    run: step(steps["bert-lora"]),
  },
  "vit-lora": { summary: "LoRA step of a classifier on the shape of ViT-S/16, 32 images", peers: true, run: step(steps["vit-lora"]) },
  packing: {
    summary: "real tokens per second on short documents, packed and in buckets, and what the mask of documents costs",
    run: (f) => benchPacking({ repeats: Number(f.repeats), smoke: f.smoke ?? false }),
  },
  memory: {
    summary: "memory predicted before the run against memory taken, over many configurations",
    run: (f) => benchMemory({ smoke: f.smoke ?? false, repeats: Math.min(3, Number(f.repeats)) }),
  },
  "memory-table": {
    summary: "memory and time of a step on SmolLM2-135M's shape by what is kept, recomputed and quantised",
    run: (f) => benchMemoryTable({ smoke: f.smoke ?? false, repeats: Math.min(5, Number(f.repeats)) }),
  },
  "base-dtype": {
    summary: "memory, step time and decoding of a base kept as f32, bf16, f16, int8, int4, nf4",
    run: (f) => benchBaseDtype({ repeats: Number(f.repeats), smoke: f.smoke ?? false }),
  },
  "base-dtype-quality": {
    summary: "bits per byte and a short LoRA run of sapling by the way its base is kept",
    run: (f) => benchBaseDtypeQuality({ smoke: f.smoke ?? false, steps: 100 }),
  },
  "data-wait": {
    summary: "share of training that waits for data, and what preparing and reading a large file costs",
    run: (f) => benchDataWait({ smoke: f.smoke ?? false, megabytes: 64 }),
  },
  "open-model": { summary: "time and memory to open a 400 MB base model", run: (f) => benchOpenModel({ smoke: f.smoke ?? false }) },
  "first-token": {
    summary: "from a checkpoint of SmolLM2-135M's shape to the first token: time and memory by how its weights are stored",
    run: (f) => benchFirstToken({ smoke: f.smoke ?? false, repeats: Math.min(5, Number(f.repeats)), peer: f.peer }),
  },
  "first-step": {
    summary: "from the command to the first finished step on the shape of SmolLM2-135M, and the share of a step outside of ONNX Runtime",
    run: (f) => benchFirstStep({ smoke: f.smoke ?? false, repeats: f.smoke ? 1 : Math.min(5, Number(f.repeats)) }),
  },
  scaling: {
    summary: "time of a LoRA step against length, batch and rank, and what the operation count predicts",
    run: (f) => benchScaling({ smoke: f.smoke ?? false, repeats: Math.min(3, Number(f.repeats)) }),
  },
  decode: { summary: "tokens per second against the memory-bandwidth bound", run: (f) => benchDecode({ smoke: f.smoke ?? false }) },
  "smollm2-decode": {
    summary: "the same, with random float32 weights of SmolLM2-135M's shape",
    async run(f) {
      const checkpoint = randomCheckpoint("SmolLM2-135M", f.smoke ? 1 : 30, "float32");
      try {
        return await benchDecode({ smoke: f.smoke ?? false, model: checkpoint.directory });
      } finally {
        checkpoint.remove();
      }
    },
  },
};

const withOptions = (command: Command): Command =>
  command
    .option("--json", "print one JSON object as the last line")
    .option("--save", "write that object to bench/results/<name>.json")
    .option("--smoke", "a small shape that only shows that the bench runs")
    .option("--repeats <n>", "timed repetitions", "15")
    .option("--profile <directory>", "training steps: write there where the time goes, as a table and as a trace")
    .option("--peer", "training steps and first-token: measure PyTorch too, where Python has it, and first-token in transformers.js");

async function runBench(name: string, flags: Flags): Promise<void> {
  const figures = { bench: name, ...(await benches[name]!.run(flags)), machine: machine() };
  if (flags.save) writeFileSync(`bench/results/${name}.json`, `${JSON.stringify(figures, null, 2)}\n`);
  if (flags.json) console.log(JSON.stringify(figures));
  else
    for (const [key, value] of Object.entries(figures))
      console.log(`${key.padEnd(24)} ${typeof value === "object" ? JSON.stringify(value) : value}`);
}

/** Each in a process of its own: the peak memory of one is not another's. */
function runAllWithPeers(program: Command): void {
  if (!program.opts<Flags>().peer) program.help({ error: true });
  for (const [name, { peers }] of Object.entries(benches)) {
    if (!peers) continue;
    const { status } = spawnSync(process.execPath, [...process.execArgv, "bench/main.ts", name, ...process.argv.slice(2)], {
      stdio: "inherit",
    });
    if (status !== 0) process.exitCode = 1;
  }
}

const program = withOptions(new Command("bench")).description("Measure speed and memory.").showHelpAfterError().enablePositionalOptions();
program.action(() => runAllWithPeers(program));
for (const [name, bench] of Object.entries(benches)) {
  withOptions(program.command(name).description(bench.summary)).action((flags: Flags) => runBench(name, flags));
}
await program.parseAsync();
