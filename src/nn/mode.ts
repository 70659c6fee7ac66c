/** How the graph being traced is to be made. */
export interface Mode {
  /** Whether it is a training step: dropout and the like act only there. */
  readonly training: boolean;
  /** Whether the backward pass computes the values of each block again, where the forward pass would have kept them. */
  readonly rematerialise: boolean;
}

let mode: Mode = { training: false, rematerialise: false };

export const isTraining = (): boolean => mode.training;

/** Whether blocks are to be traced with `rematerialise`; a block is a module that stands in a list, as the layers of a model do. */
export const rematerialisesBlocks = (): boolean => mode.rematerialise;

/** Runs `fn` in training mode. */
export function inTraining<T>(fn: () => T, { rematerialise = false }: { rematerialise?: boolean | undefined } = {}): T {
  const outer = mode;
  mode = { training: true, rematerialise };
  try {
    return fn();
  } finally {
    mode = outer;
  }
}
