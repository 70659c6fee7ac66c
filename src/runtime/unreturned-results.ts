import type { Traced } from "../graph/index.ts";
import { dtypeSize, elementCount } from "../graph/index.ts";

/*
 * onnxruntime-node copies every output of a run into a fresh array, also where the caller gave it the buffer that holds the output already:
 * for full training that is all weights and moments in every step, 12 % of its time here, measured at 26 M parameters. The copies are made in
 * the order of the model's outputs and end at the first that is no tensor, which it cannot return. So a program that updates much gets an empty
 * sequence in the first place. The run has then done all its work, every output stands in the caller's buffers, and the copying ends before it
 * begins, with an error that means just this. A version that copies nothing, or returns sequences, raises no error, and all is as usual.
 */

/** Below this many bytes of updates the copies cost less than they are worth avoiding. */
const worthwhileBytes = 4_000_000;

/** Whether a program's outputs should be kept from being copied: it updates much, and every output's size is known beforehand. */
export function avoidsCopies({ graph, outputs }: Traced): boolean {
  const concrete = [...Object.values(outputs)].every(({ shape }) => shape.every((d) => typeof d === "number"));
  const bytes = [...graph.updates.keys()].reduce((n, v) => n + elementCount(v.shape) * dtypeSize[v.dtype], 0);
  return concrete && bytes >= worthwhileBytes;
}

/** Whether an error of a run says only that its first output cannot be returned. */
export const isUnreturnedResult = (error: unknown): boolean =>
  error instanceof Error && /Non tensor type is temporarily not supported/.test(error.message);
