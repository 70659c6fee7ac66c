/** `npm run bench -- <name> [--json] [--smoke]`: figures as ratios within one run. The last line of `--json` is one JSON object. */
import { Command } from "commander";
import { benchBaseDtype } from "./base-dtype.ts";
import { benchBaseDtypeQuality } from "./base-dtype-quality.ts";
import { benchDecode } from "./decode.ts";
import { benchFirstToken } from "./first-token.ts";
import { machine } from "./machine.ts";
import { benchOpenModel } from "./open-model.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { benchStep, type StepBenchOptions } from "./step.ts";

interface Flags {
  json?: boolean;
  smoke?: boolean;
  repeats: string;
  profile?: string;
  peer?: boolean;
}

const step =
  (shape: StepBenchOptions["shape"], lora: boolean) =>
  ({ repeats, smoke = false, profile, peer }: Flags) =>
    benchStep({ shape, lora, repeats: Number(repeats), smoke, profile, peer: lora && peer });

const benches: Record<string, { summary: string; run(flags: Flags): Promise<Record<string, unknown>> }> = {
  "lora-step": { summary: "LoRA training step as a share of the matmul peak", run: step("SmolLM2-135M, vocabulary 8192", true) },
  "full-step": { summary: "full training step as a share of the matmul peak", run: step("SmolLM2-135M, vocabulary 8192", false) },
  "smollm2-lora": {
    summary: "LoRA training step on the shape of SmolLM2-135M as a share of the matmul peak",
    run: step("SmolLM2-135M", true),
  },
  "base-dtype": {
    summary: "memory, step time and decoding of a base kept as f32, bf16, f16, int8, int4, nf4",
    run: (f) => benchBaseDtype({ repeats: Number(f.repeats), smoke: f.smoke ?? false }),
  },
  "base-dtype-quality": {
    summary: "bits per byte and a short LoRA run of sapling by the way its base is kept",
    run: (f) => benchBaseDtypeQuality({ smoke: f.smoke ?? false, steps: 100 }),
  },
  "open-model": { summary: "time and memory to open a 400 MB base model", run: (f) => benchOpenModel({ smoke: f.smoke ?? false }) },
  "first-token": {
    summary: "from a checkpoint of SmolLM2-135M's shape to the first token: time and memory by how its weights are stored",
    run: (f) => benchFirstToken({ smoke: f.smoke ?? false, repeats: Math.min(5, Number(f.repeats)), peer: f.peer }),
  },
  decode: { summary: "tokens per second against the memory-bandwidth bound", run: (f) => benchDecode({ smoke: f.smoke ?? false }) },
  "smollm2-decode": {
    summary: "the same, with random float32 weights of SmolLM2-135M's shape",
    async run(f) {
      const checkpoint = randomCheckpoint("SmolLM2-135M", f.smoke ? 1 : 30, "float32");
      try {
        return await benchDecode({ smoke: f.smoke ?? false, model: checkpoint.directory, profile: f.profile });
      } finally {
        checkpoint.remove();
      }
    },
  },
};

const program = new Command("bench").description("Measure speed and memory.").showHelpAfterError();
for (const [name, bench] of Object.entries(benches)) {
  program
    .command(name)
    .description(bench.summary)
    .option("--json", "print one JSON object as the last line")
    .option("--smoke", "a small shape that only shows that the bench runs")
    .option("--repeats <n>", "timed repetitions", "15")
    .option("--profile <prefix>", "write a per-operator trace of ONNX Runtime")
    .option("--peer", "steps with LoRA and first-token: measure PyTorch too, where Python has it, and first-token in transformers.js")
    .action(async (flags: Flags) => {
      const figures = await bench.run(flags);
      if (flags.json) console.log(JSON.stringify({ bench: name, ...figures, machine: machine() }));
      else
        for (const [key, value] of Object.entries(figures))
          console.log(`${key.padEnd(24)} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    });
}
await program.parseAsync();
