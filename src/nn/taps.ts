import { EspalierError } from "../graph/index.ts";

/** What `forward` of each watched module returned, by the module's path. */
type Taps = Map<string, unknown>;

let taps: { wanted: ReadonlySet<string>; found: Taps } | undefined;

/**
 * Traces `fn` and reads what modules return meanwhile: hidden states, for distillation and for networks that stand beside a frozen one. Where a module
 * runs more than once, its last output counts.
 *
 * @param paths of the modules, as `model.layers.3`
 * @returns the result of `fn`, and the outputs in the order of the paths
 * @throws EspalierError `no-module` for a path of which nothing ran
 */
export function tapped<T>(paths: readonly string[], fn: () => T): { result: T; outputs: readonly unknown[] } {
  const outer = taps;
  const found: Taps = new Map();
  taps = { wanted: new Set(paths), found };
  try {
    const result = fn();
    const outputs = paths.map((path) => {
      if (found.has(path)) return found.get(path);
      throw new EspalierError("no-module", `No module "${path}" ran, so there is no output of it to read.`);
    });
    return { result, outputs };
  } finally {
    taps = outer;
  }
}

/** Called with every module's output. */
export function tap<T>(path: string, output: T): T {
  if (taps?.wanted.has(path)) taps.found.set(path, output);
  return output;
}
