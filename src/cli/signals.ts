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

/** One Ctrl-C may arrive twice: from the terminal, and passed on by npm, which got it too. */
export const echoMilliseconds = 300;

/** The first signal aborts and calls `onFirst`; a second one ends the process as soon as ONNX Runtime lets go of it. */
export function interruption(onFirst: () => void): Interruption {
  const controller = new AbortController();
  const { signal } = controller;
  let first = 0;
  const handle = () => {
    if (!signal.aborted) {
      first = performance.now();
      controller.abort();
      onFirst();
    } else if (performance.now() - first > echoMilliseconds) process.exit(130);
  };
  process.on("SIGINT", handle);
  process.on("SIGTERM", handle);
  return {
    signal,
    check() {
      if (signal.aborted) throw new Interrupted();
    },
    dispose() {
      process.off("SIGINT", handle);
      process.off("SIGTERM", handle);
    },
  };
}
