/**
 * An error whose message is written for the person who caused it: what was wrong, where, and what to do.
 * Everything that bad input can trigger throws this class; the command prints its message without a stack trace.
 */
export class EspalierError extends Error {
  /** A stable, machine-readable reason such as `"shape-mismatch"` or `"checkpoint-truncated"`. */
  readonly code: string;

  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "EspalierError";
    this.code = code;
  }
}

/** What `run` refuses lies in `where`, which its message may not know of. */
export function blaming<T>(where: string, run: () => T): T {
  try {
    return run();
  } catch (cause) {
    if (!(cause instanceof EspalierError) || cause.message.includes(where)) throw cause;
    throw new EspalierError(cause.code, `${where}: ${cause.message}`, { cause });
  }
}

/** A value from a file for a message: as JSON, and never a screenful. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}

/** The problems of a file for a message: a list of a million wrong values is one mistake, not a million lines. */
export function fewProblems(problems: readonly string[]): string[] {
  const shown = problems.slice(0, 8).map((problem) => (problem.length > 300 ? `${problem.slice(0, 297)}...` : problem));
  return problems.length > shown.length ? [...shown, `and ${problems.length - shown.length} more`] : shown;
}

/** Names come from files, too, and may be a megabyte long or a million: so much of them is compared. */
const [comparedCharacters, comparedCandidates] = [128, 2000];

/** The `limit` candidates most like `name` (Levenshtein distance), nearest first: material for a "did you mean". */
export function nearestNames(name: string, candidates: Iterable<string>, limit = 3): string[] {
  const short = name.slice(0, comparedCharacters);
  const scored = [...new Set(candidates)]
    .slice(0, comparedCandidates)
    .map((candidate) => ({ candidate, distance: editDistance(short, candidate.slice(0, comparedCharacters)) }));
  scored.sort((a, b) => a.distance - b.distance || a.candidate.localeCompare(b.candidate));
  return scored.slice(0, limit).map((entry) => entry.candidate);
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, previous[j]! + 1, current[j - 1]! + 1));
    }
    previous = current;
  }
  return previous[b.length]!;
}
