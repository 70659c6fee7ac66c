/** Thrown when the user stopped a command; whatever it had to save is saved. */
export class Interrupted extends Error {}

/** A signal that the first Ctrl-C (or SIGTERM) raises, for a command that ends in good order; the second one ends the process at once. */
export function interruption(onFirst: () => void): AbortSignal {
  const controller = new AbortController();
  const handle = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort();
    onFirst();
  };
  process.on("SIGINT", handle);
  process.on("SIGTERM", handle);
  return controller.signal;
}
