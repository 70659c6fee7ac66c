let training = false;

/** Whether the graph being traced is a training step: dropout and the like act only there. */
export const isTraining = (): boolean => training;

/** Runs `fn` in training mode. */
export function inTraining<T>(fn: () => T): T {
  const outer = training;
  training = true;
  try {
    return fn();
  } finally {
    training = outer;
  }
}
