import type { DType, MemoryStorage, TypedArray } from "../graph/index.ts";

/** Values on the host: what programs are fed and what they return. */
export type HostTensor = Omit<MemoryStorage, "kind">;

/** A host tensor over `data`. */
export const hostTensor = (dtype: DType, shape: readonly number[], data: TypedArray): HostTensor => ({ dtype, shape, data });
