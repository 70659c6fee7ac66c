/** Thrown when the user stopped a command; whatever it had to save is saved. */
export class Interrupted extends Error {}

/** The first Ctrl-C (or SIGTERM) of a command that ends in good order. */
export interface Interruption {
  readonly signal: AbortSignal;
  /** Throws {@link Interrupted} once the user has asked to stop. */
  check(): void;
  /** Gives Ctrl-C its usual meaning back. */
  dispose(): void;
}

/** The first signal aborts and calls `onFirst`; the second one ends the process at once. */
export function interruption(onFirst: () => void): Interruption {
  const controller = new AbortController();
  const { signal } = controller;
  const dispose = () => {
    process.off("SIGINT", handle);
    process.off("SIGTERM", handle);
  };
  const handle = () => {
    if (signal.aborted) process.exit(130);
    controller.abort();
    onFirst();
    // Handlers wait while ONNX Runtime computes. Without one the system ends the process even then; a second signal that came during
    // the same computation as the first is already waiting for this handler, so it stays until those have been delivered.
    setImmediate(dispose);
  };
  process.on("SIGINT", handle);
  process.on("SIGTERM", handle);
  return {
    signal,
    check() {
      if (signal.aborted) throw new Interrupted();
    },
    dispose,
  };
}
