let off = false;

/** Whether modules that stand on others are passed over; see {@link withoutAdapters}. */
export const adaptersAreOff = (): boolean => off;

/**
 * Traces `fn` as though no module stood on another ({@link Module.standsOn}): what runs is the base model, with the same weights, in the same graph. That is
 * the reference of preference optimization, which so needs no second copy. Parameters of the base that are trained themselves are not undone.
 */
export function withoutAdapters<T>(fn: () => T): T {
  const outer = off;
  off = true;
  try {
    return fn();
  } finally {
    off = outer;
  }
}
