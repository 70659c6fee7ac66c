import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { median, round, settle } from "./machine.ts";

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
 * The same training step in PyTorch, transformers and PEFT, in a process of its own. Its steps and ours take turns, and each pair gives a ratio, so that a
 * machine whose speed drifts is compared with itself. Where no Python has them, the answer says so.
 */
export async function comparePeer(
  shape: { layers: number; vocabulary: number; batch: number; time: number },
  ours: { step(): Promise<number>; repeats: number; peakMemoryMB: number },
): Promise<Record<string, unknown>> {
  const missing = missingFromPython("torch, transformers, peft");
  if (missing) return { peer: missing };
  const sizes = Object.entries(shape).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const peer: Record<string, unknown> = {};
  for (const [way, flags] of Object.entries(ways)) {
    const theirs = new PeerProcess(["bench/peer/smollm2_lora.py", ...sizes, ...flags]);
    const { peakMemoryMB, versions } = (await theirs.next()) as { peakMemoryMB: number; versions: Record<string, string> };
    const pairs: { ours: number; theirs: number }[] = [];
    for (let i = 0; i < ours.repeats; i++) {
      await settle();
      const own = await ours.step();
      await settle();
      pairs.push({ ours: own, theirs: await theirs.step() });
    }
    await theirs.end();
    peer[way] = {
      oursIsFasterBy: round(median(pairs.map((p) => p.theirs / p.ours)), 2),
      oursIsFasterByAtBest: round(Math.min(...pairs.map((p) => p.theirs)) / Math.min(...pairs.map((p) => p.ours)), 2),
      stepSeconds: round(median(pairs.map((p) => p.theirs)), 3),
      ourMemoryToTheirs: round(ours.peakMemoryMB / peakMemoryMB, 2),
      peakMemoryMB: Math.round(peakMemoryMB),
    };
    peer.versions = versions;
  }
  return { peer };
}

/** A process that answers in lines of JSON. */
class PeerProcess {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #exit: Promise<unknown>;
  #errors = "";

  constructor(args: readonly string[]) {
    this.#child = spawn(python, args, { stdio: "pipe" });
    this.#exit = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stderr!.on("data", (text) => (this.#errors += text));
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async next(): Promise<unknown> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`the peer has stopped: ${this.#errors.trim().split("\n").at(-1)}`);
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
