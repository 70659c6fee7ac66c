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
export const inTraining = <T>(fn: () => T, { rematerialise = false }: { rematerialise?: boolean | undefined } = {}): T =>
  inMode({ training: true, rematerialise }, fn);

/** Runs `fn` out of training mode, as for the part of a training step that is only looked at: a teacher, a reference. */
export const outOfTraining = <T>(fn: () => T): T => inMode({ training: false, rematerialise: false }, fn);

function inMode<T>(inner: Mode, fn: () => T): T {
  const outer = mode;
  mode = inner;
  try {
    return fn();
  } finally {
    mode = outer;
  }
}
