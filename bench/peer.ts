import { spawnSync } from "node:child_process";
import { round } from "./machine.ts";

interface PeerFigures {
  stepSeconds: number;
  bestStepSeconds: number;
  peakMemoryMB: number;
  versions: Record<string, string>;
}

/** How PyTorch runs the step: as written, and what it offers to go faster. */
const ways: Readonly<Record<string, readonly string[]>> = {
  "float32, eager": [],
  "float32, torch.compile": ["--compile"],
  "bfloat16 autocast, eager": ["--bf16"],
};

/** The Python to ask: `ESPALIER_PYTHON`, or the one on the path. */
export const python = process.env.ESPALIER_PYTHON ?? "python3";

/** Why no comparison is made, where Python lacks one of these modules. */
export function missingFromPython(modules: string): string | undefined {
  const probe = spawnSync(python, ["-c", `import ${modules}`], { encoding: "utf8" });
  if (probe.status === 0) return undefined;
  const reason = probe.error?.message ?? probe.stderr.trim().split("\n").at(-1);
  return `absent: ${python} lacks one of ${modules} (${reason}); ESPALIER_PYTHON names another Python`;
}

/**
 * The same training step in PyTorch, transformers and PEFT, in a process of its own, and how ours stands to it. Where no Python has them, the answer
 * says so.
 */
export function comparePeer(
  options: { layers: number; vocabulary: number; batch: number; time: number; repeats: number },
  ours: { stepSeconds: number; bestStepSeconds: number; peakMemoryMB: number },
): Record<string, unknown> {
  const missing = missingFromPython("torch, transformers, peft");
  if (missing) return { peer: missing };
  const numbers = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const compared = Object.entries(ways).map(([way, flags]) => {
    const run = spawnSync(python, ["bench/peer/smollm2_lora.py", ...numbers, ...flags], { encoding: "utf8" });
    if (run.status !== 0) return [way, `failed: ${run.stderr.trim().split("\n").at(-1)}`] as const;
    const { stepSeconds, bestStepSeconds, peakMemoryMB, versions } = JSON.parse(run.stdout.trim().split("\n").at(-1)!) as PeerFigures;
    const figures = {
      stepSeconds: round(stepSeconds, 3),
      peakMemoryMB: Math.round(peakMemoryMB),
      oursIsFasterBy: round(stepSeconds / ours.stepSeconds, 2),
      oursIsFasterByAtBest: round(bestStepSeconds / ours.bestStepSeconds, 2),
      ourMemoryToTheirs: round(ours.peakMemoryMB / peakMemoryMB, 2),
      versions,
    };
    return [way, figures] as const;
  });
  return { peer: Object.fromEntries(compared) };
}
