import { EspalierError } from "../graph/index.ts";
import type { AvailableMemory } from "./available-memory.ts";

/** What decides how much memory a step takes, and can be changed without changing what is learnt much. */
export interface MemorySettings {
  batchSize: number;
  accumulate: number;
  /** Undefined where the model reads no sequences of tokens. */
  maxLength: number | undefined;
  rematerialise: boolean;
  baseDtype: string;
  /** Of the optimizer's state; undefined where it has no choice. */
  stateDtype: "float32" | "int8" | undefined;
}

export interface MemoryNeed {
  /** Of the process at its peak. */
  bytes: number;
  /** Of one optimizer step. */
  seconds: number;
}

export interface Proposal extends MemoryNeed {
  /** The options, as on a command line. */
  flags: string;
  settings: MemorySettings;
}

export interface ProposalOptions {
  settings: MemorySettings;
  /** Whether there is a frozen base that could be kept in fewer bits. */
  frozenBase: boolean;
  limit: number;
  /** What the step would need with other settings; undefined where they cannot be. */
  need(settings: MemorySettings): Promise<MemoryNeed | undefined>;
}

/**
 * What to change so that a step fits: every way alone and the useful ways together, each really estimated. Those that fit come first, the fastest of them
 * before the others and those that shorten the sequences last; then those that do not, by what they need.
 */
export async function memoryProposals({ settings, frozenBase, limit, need }: ProposalOptions): Promise<Proposal[]> {
  const { batchSize, accumulate, maxLength } = settings;
  const smaller = (by: number) => (batchSize % by === 0 ? [{ batchSize: batchSize / by, accumulate: accumulate * by }] : []);
  const again = settings.rematerialise ? [] : [{ rematerialise: true }];
  const base = frozenBase && settings.baseDtype === "f32" ? [{ baseDtype: "int8" }] : [];
  const state = settings.stateDtype === "float32" && !frozenBase ? [{ stateDtype: "int8" as const }] : [];
  const shorter = maxLength !== undefined && maxLength >= 64 ? [{ maxLength: Math.floor(maxLength / 2) }] : [];
  const single: Partial<MemorySettings>[] = [...smaller(2), ...smaller(4), ...again, ...base, ...state, ...shorter];
  const least = Object.assign({}, ...again, ...base, ...state) as Partial<MemorySettings>;
  const together: Partial<MemorySettings>[] = [
    ...again.flatMap((a) => [...base, ...state].map((b) => ({ ...a, ...b }))),
    ...[2, 4, batchSize].flatMap((by) => smaller(by).map((s) => ({ ...s, ...least }))),
    ...shorter.flatMap((s) => smaller(batchSize).map((b) => ({ ...s, ...b, ...least }))),
  ];
  const seen = new Set<string>();
  const proposals: Proposal[] = [];
  for (const change of [...single, ...together]) {
    const changed = { ...settings, ...change };
    const flags = flagsOf(settings, changed);
    if (flags === "" || seen.has(flags)) continue;
    seen.add(flags);
    const needed = await need(changed);
    if (needed) proposals.push({ ...needed, flags, settings: changed });
  }
  const fits = (p: Proposal) => Number(p.bytes <= limit);
  // Shorter sequences are faster because less is learnt.
  const whole = (p: Proposal) => Number(p.settings.maxLength === maxLength);
  return proposals.sort((a, b) => fits(b) - fits(a) || (fits(a) ? whole(b) - whole(a) || a.seconds - b.seconds : a.bytes - b.bytes));
}

function flagsOf(from: MemorySettings, to: MemorySettings): string {
  const flags: string[] = [];
  if (to.batchSize !== from.batchSize) flags.push(`--batch-size ${to.batchSize} --accumulate ${to.accumulate}`);
  if (to.maxLength !== from.maxLength) flags.push(`--max-length ${to.maxLength}`);
  if (to.rematerialise && !from.rematerialise) flags.push("--rematerialise");
  if (to.baseDtype !== from.baseDtype) flags.push(`--base-dtype ${to.baseDtype}`);
  if (to.stateDtype !== from.stateDtype) flags.push(`--optimizer-options stateDtype=${to.stateDtype}`);
  return flags.join(" ");
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

/** A warning for who is about to start what needs more memory than there is; undefined where it fits. */
export function memoryAdvice(neededBytes: number, available: AvailableMemory): string | undefined {
  if (neededBytes <= available.bytes) return undefined;
  const where = available.bound === "container" ? "this container's limit leaves" : "this machine has";
  return `A step is expected to take about ${gigabytes(neededBytes)} of memory, and ${where} ${gigabytes(available.bytes)}. ${advice}`;
}

/** What a run that does not fit may change, what costs least first. */
const advice =
  "Compute each block again in place of keeping its values (--rematerialise), lower the batch size and raise the batches per step by the same factor (--batch-size, --accumulate: the same update), shorten the sequences (--max-length), keep a frozen base in int8 or int4 (--base-dtype), or train fewer parameters (--rank); espalier inspect says what each would save.";

/** An error of memory with what can be done about it; any other error as it is. */
export const withMemoryAdvice = (error: unknown): unknown =>
  error instanceof EspalierError && error.code === "out-of-memory"
    ? new EspalierError("out-of-memory", `${error.message} ${advice}`, { cause: error })
    : error;
