/** The same training step in PyTorch, transformers and PEFT, and in ours: each in a process of its own, their steps in turn. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import type { BaseDtype } from "../src/models/index.ts";
import type { ComputeDtype } from "../src/ops/index.ts";
import { median, round, settle } from "./machine.ts";
import { layersOf, type StepSpec } from "./shapes.ts";

/** How PyTorch runs the step: as written, and what it offers to go faster. */
const theirWays: Readonly<Record<string, readonly string[]>> = {
  "float32, eager": [],
  "float32, torch.compile": ["--compile"],
  "bfloat16 autocast, eager": ["--bf16"],
};

interface OurWay {
  base: BaseDtype;
  compute: ComputeDtype;
}

/** How we run it. An integer base is for adapters, products in integers are for weights that are trained. */
const ourWays = ({ lora }: StepSpec): Readonly<Record<string, OurWay>> => ({
  float32: { base: "f32", compute: "float32" },
  ...(lora ? { "int8 base": { base: "int8", compute: "float32" } } : { "int8 products": { base: "f32", compute: "int8" } }),
});

/** The Python to ask: `ESPALIER_PYTHON`, or the one on the path. */
export const python = process.env.ESPALIER_PYTHON ?? "python3";

/** Why no comparison is made, where Python lacks one of these modules. */
export function missingFromPython(modules: string): string | undefined {
  const probe = spawnSync(python, ["-c", `import ${modules}`], { encoding: "utf8" });
  if (probe.status === 0) return undefined;
  const reason = probe.error?.message ?? probe.stderr.trim().split("\n").at(-1);
  return `absent: ${python} lacks one of ${modules} (${reason}); ESPALIER_PYTHON names another Python`;
}

interface Contestant {
  process: StepProcess;
  peakMemoryMB: number;
  seconds: number[];
}

/**
 * Steps of all contestants take turns, and each turn gives ratios, so that a machine whose speed drifts is compared with itself.
 * `ourFastestToTheirs` compares the fastest of each side, in time and in peak memory. Where no Python has the libraries, the answer says so.
 */
export async function comparePeers(directory: string, spec: StepSpec, rounds: number): Promise<Record<string, unknown>> {
  const missing = missingFromPython("torch, transformers, peft");
  if (missing) return { peer: missing };
  const given = JSON.stringify({ ...spec, layers: layersOf(spec) });
  const commands = {
    ...named("ours", ourWays(spec), ({ base, compute }) => [
      ...[process.execPath, "--import", "tsx", "bench/training-step.ts"],
      ...[directory, base, compute, given],
    ]),
    ...named("theirs", theirWays, (flags) => [python, "bench/peer/step.py", directory, given, ...flags]),
  };
  const contestants = new Map<string, Contestant>();
  let versions: unknown;
  try {
    // One after the other, so that nobody warms up beside another's steps.
    for (const [name, command] of Object.entries(commands)) {
      const own = new StepProcess(command);
      const first = (await own.next()) as { peakMemoryMB: number; versions?: unknown };
      contestants.set(name, { process: own, peakMemoryMB: first.peakMemoryMB, seconds: [] });
      versions ??= first.versions;
    }
    for (let i = 0; i < rounds; i++)
      for (const { process, seconds } of contestants.values()) {
        await settle();
        seconds.push(await process.step());
      }
  } finally {
    for (const { process } of contestants.values()) await process.end();
  }
  const of = (side: string) => [...contestants].filter(([name]) => name.startsWith(side));
  const fastest = (side: string) => of(side).sort(([, a], [, b]) => median(a.seconds) - median(b.seconds))[0]!;
  const [[ourName, ours], [theirName, theirs]] = [fastest("ours"), fastest("theirs")];
  const reference = contestants.get("ours, float32")!;
  return {
    peer: {
      ourFastest: ourName,
      theirFastest: theirName,
      ourFastestIsFasterBy: faster(ours, theirs),
      ourFloat32IsFasterByThanTheirFastest: faster(reference, theirs),
      ourFloat32IsFasterByThanTheirs: faster(reference, contestants.get("theirs, float32, eager")!),
      ourMemoryToTheirs: round(ours.peakMemoryMB / theirs.peakMemoryMB, 2),
      ...Object.fromEntries(
        [...contestants].map(([name, { seconds, peakMemoryMB }]) => [
          name,
          {
            stepSeconds: round(median(seconds), 3),
            bestStepSeconds: round(Math.min(...seconds), 3),
            peakMemoryMB: Math.round(peakMemoryMB),
          },
        ]),
      ),
      versions,
    },
  };
}

/** How many times as fast the first is: the median over the rounds. */
const faster = (a: Contestant, b: Contestant): number => round(median(a.seconds.map((s, i) => b.seconds[i]! / s)), 2);

const named = <T>(side: string, ways: Readonly<Record<string, T>>, command: (way: T) => string[]): Record<string, string[]> =>
  Object.fromEntries(Object.entries(ways).map(([name, way]) => [`${side}, ${name}`, command(way)]));

/** A process that answers in lines of JSON. */
class StepProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #exit: Promise<unknown>;
  #errors = "";

  constructor([command, ...args]: readonly string[]) {
    this.#child = spawn(command!, args, { stdio: "pipe" });
    this.#exit = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stderr!.on("data", (text) => (this.#errors += text));
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async next(): Promise<unknown> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`a process that was to run steps has stopped: ${this.#errors.trim().split("\n").at(-1)}`);
    return JSON.parse(value);
  }

  async step(): Promise<number> {
    this.#child.stdin!.write("step\n");
    return ((await this.next()) as { seconds: number }).seconds;
  }

  async end(): Promise<void> {
    this.#child.stdin!.end();
    await this.#exit;
  }
}
