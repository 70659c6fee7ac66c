import { readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";

/** What the figures were measured on. */
export const machine = () => ({
  cpu: cpus()[0]?.model ?? "unknown",
  cores: cpus().length,
  memoryGB: Math.round(totalmem() / 2 ** 30),
  node: process.version,
});

export const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

export const round = (value: number, digits: number): number => Number(value.toFixed(digits));

/** A session's threads spin for a while after a run and would slow another session's: long enough for them to fall asleep. */
export const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 150));

/** Memory of this process that no file backs, in bytes (Linux). */
export function anonymousMemory(): number {
  global.gc?.();
  return Number(/RssAnon:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) * 1024;
}
