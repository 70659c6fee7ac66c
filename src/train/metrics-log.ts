import { appendFileSync, closeSync, existsSync, fsyncSync, openSync, readFileSync } from "node:fs";
import { writeFileAtomically } from "../checkpoints/index.ts";

/**
 * The fields of metrics.jsonl that say how fast it went. All others are the same, bit for bit, in a run that was killed and resumed and in one that
 * never was.
 */
export const timingFields: ReadonlySet<string> = new Set([
  "tokensPerSecond",
  "dataMilliseconds",
  "sessionMilliseconds",
  "restMilliseconds",
]);

/** `metrics.jsonl`: a line for each step, and one for each evaluation, whose metrics begin with `eval.`. */
export class MetricsLog {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  append(record: Readonly<Record<string, unknown>>): void {
    appendFileSync(this.file, `${JSON.stringify(record)}\n`);
  }

  /** What held-out data say of the weights after `step`. */
  appendEvaluation(step: number, metrics: Readonly<Record<string, number>>): void {
    this.append({ step, ...Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval.${name}`, value])) });
  }

  holdsEvaluation(step: number): boolean {
    const start = `{"step":${step},"eval.`;
    return this.#lines().some((line) => line.startsWith(start));
  }

  /** Drops the lines of steps after `step`, and one that a kill cut short. */
  truncate(step: number): void {
    if (!existsSync(this.file)) return;
    const kept = this.#lines().filter((line) => {
      try {
        return (JSON.parse(line) as { step: number }).step <= step;
      } catch {
        return false;
      }
    });
    writeFileAtomically(this.file, (append) => append(new TextEncoder().encode(kept.map((line) => `${line}\n`).join(""))));
  }

  /** Makes what was logged survive a power cut. */
  flush(): void {
    if (!existsSync(this.file)) return;
    const descriptor = openSync(this.file, "r+");
    try {
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  }

  #lines(): string[] {
    return existsSync(this.file) ? readFileSync(this.file, "utf8").split("\n").filter(Boolean) : [];
  }
}
