/**
 * From a checkpoint of SmolLM2-135M's shape to the first token after a prompt of 32: time and anonymous memory, each in a process of its own, whose
 * libraries are loaded already. With a peer also in transformers.js, on the model as an ONNX export, and in PyTorch. The checkpoint holds float32, or bfloat16, which is widened into a mapped file (the default) or held as it is.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { exportOnnx, loadCausalLM } from "../src/models/index.ts";
import { median, round } from "./machine.ts";
import { missingFromPython, python } from "./peer.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";

interface Run {
  openMilliseconds: number;
  firstTokenMilliseconds: number;
  anonymousMB: number;
  token: number;
}

export async function benchFirstToken(options: { smoke: boolean; repeats: number; peer?: boolean }): Promise<Record<string, unknown>> {
  const [layers, repeats] = options.smoke ? [1, 1] : [30, options.repeats];
  const checkpoints = {
    f32: randomCheckpoint("SmolLM2-135M", layers, "float32"),
    bf16: randomCheckpoint("SmolLM2-135M", layers, "bfloat16"),
  };
  const exported = join(checkpoints.f32.directory, "exported");
  try {
    if (options.peer)
      exportOnnx(exported, loadCausalLM(checkpoints.f32.directory).freeze(), { dtypes: ["f32", "f16", "int8"], external: true });
    const espalier = (directory: string, baseDtype: string) => [
      process.execPath,
      ...["--expose-gc", "--import", "tsx", "bench/first-token-run.ts", directory, baseDtype],
    ];
    const transformersJs = (dtype: string) => [
      process.execPath,
      ...["--expose-gc", "--import", "tsx", "bench/first-token-transformers-js.ts", exported, dtype],
    ];
    const pytorch = (directory: string, dtype: string) => [python, "bench/peer/first_token.py", directory, dtype];
    const missing = options.peer ? missingFromPython("torch, transformers") : undefined;
    const commands = {
      espalier: {
        "f32 checkpoint": espalier(checkpoints.f32.directory, "f32"),
        "bf16 checkpoint": espalier(checkpoints.bf16.directory, "f32"),
        "bf16 checkpoint, --base-dtype bf16": espalier(checkpoints.bf16.directory, "bf16"),
      },
      ...(options.peer && {
        "transformers.js, the model exported": {
          "f32 graph": transformersJs("fp32"),
          "f16 graph": transformersJs("fp16"),
          "int8 graph": transformersJs("q8"),
        },
      }),
      ...(options.peer &&
        !missing && {
          pytorch: {
            "f32 checkpoint": pytorch(checkpoints.f32.directory, "float32"),
            "bf16 checkpoint": pytorch(checkpoints.bf16.directory, "float32"),
            "bf16 checkpoint, in bfloat16": pytorch(checkpoints.bf16.directory, "bfloat16"),
          },
        }),
    };
    const figures = Object.entries(commands).map(([library, ways]) => [
      library,
      Object.fromEntries(Object.entries(ways).map(([way, command]) => [way, measure(command, repeats)])),
    ]);
    return {
      parametersMillions: round(checkpoints.f32.bytes / 4e6, 1),
      promptTokens: 32,
      processes: repeats,
      ...Object.fromEntries(figures),
      ...(missing && { pytorch: missing }),
    };
  } finally {
    for (const checkpoint of Object.values(checkpoints)) checkpoint.remove();
  }
}

/** Medians over processes; the token shows that all computed the same. */
function measure([command, ...args]: readonly string[], repeats: number): Run {
  const runs = Array.from({ length: repeats }, (): Run => {
    const run = spawnSync(command!, args, { encoding: "utf8" });
    if (run.status !== 0) throw new Error(`${command} ${args.join(" ")} failed: ${run.stderr}`);
    return JSON.parse(run.stdout.trim().split("\n").at(-1)!) as Run;
  });
  const of = (key: keyof Run) => Math.round(median(runs.map((run) => run[key])));
  return {
    openMilliseconds: of("openMilliseconds"),
    firstTokenMilliseconds: of("firstTokenMilliseconds"),
    anonymousMB: of("anonymousMB"),
    token: of("token"),
  };
}
