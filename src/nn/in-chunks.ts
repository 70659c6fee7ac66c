import type { Tensor } from "../graph/index.ts";
import { inChunks } from "../ops/index.ts";
import { withDrawsOf } from "./dropout.ts";

/**
 * {@link inChunks} of what modules compute: every chunk draws random numbers of its own, the same ones when its gradient computes it again. With this a
 * batch of any size takes the memory of one chunk (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
 */
export const modulesInChunks = (
  cut: Readonly<Record<string, Tensor>>,
  limit: number,
  fn: (parts: Readonly<Record<string, Tensor>>) => readonly Tensor[],
): readonly Tensor[] => inChunks(cut, limit, (parts, number) => withDrawsOf(number, () => fn(parts)));
