/** Sums of what several adapters have learnt, element by element, as PEFT computes them. */
import { EspalierError, type Random } from "../../graph/index.ts";

/** How the sign is elected with which elements may take part: that of the sum, or that of most. */
export type MajoritySign = "total" | "frequency";

export interface SumOptions {
  type: "linear" | "ties" | "dare_linear" | "dare_ties" | "magnitude_prune";
  /** Share of the elements that is kept. */
  density?: number | undefined;
  majoritySign?: MajoritySign | undefined;
  random: Random;
}

/**
 * Σ weightᵢ·tensorᵢ, of all elements ("linear") or of those that stay after pruning each tensor:
 * - `magnitude_prune`: the largest
 * - `ties`: the largest, of which those that disagree with the elected sign are left out, and the rest averaged (Yadav et al., "TIES-Merging")
 * - `dare_linear`, `dare_ties`: random ones, stretched by 1/density (Yu et al., "Language Models are Super Mario")
 */
export function weightedSum(tensors: readonly Float32Array[], weights: readonly number[], options: SumOptions): Float32Array {
  const { type } = options;
  const kept = type === "linear" ? tensors : tensors.map((tensor) => pruned(tensor, options));
  if (type === "ties" || type === "dare_ties") return disjointMean(kept, weights, options.majoritySign ?? "total");
  return Float32Array.from(kept[0]!, (_, i) => kept.reduce((sum, tensor, k) => sum + weights[k]! * tensor[i]!, 0));
}

function pruned(tensor: Float32Array, { type, density, random }: SumOptions): Float32Array {
  if (density === undefined || !(density >= 0 && density <= 1))
    throw new EspalierError(
      "bad-option",
      `${type} needs a density from 0 to 1, the share of the elements that is kept; ${density} was given.`,
    );
  if (density === 1) return tensor;
  if (type.startsWith("dare")) return tensor.map((value) => (random.uniform() < density ? value / density : 0));
  const order = Array.from(tensor.keys()).sort((a, b) => Math.abs(tensor[b]!) - Math.abs(tensor[a]!) || a - b);
  const result = new Float32Array(tensor.length);
  for (const i of order.slice(0, Math.floor(density * tensor.length))) result[i] = tensor[i]!;
  return result;
}

/** Of each element, the weighted sum of those with the elected sign over their number. */
function disjointMean(tensors: readonly Float32Array[], weights: readonly number[], majority: MajoritySign): Float32Array {
  return Float32Array.from(tensors[0]!, (_, i) => {
    const votes = tensors.reduce((sum, tensor) => sum + (majority === "total" ? tensor[i]! : Math.sign(tensor[i]!)), 0);
    const sign = votes >= 0 ? 1 : -1;
    let [sum, count] = [0, 0];
    for (const [k, tensor] of tensors.entries()) {
      if (Math.sign(tensor[i]!) !== sign) continue;
      sum += weights[k]! * tensor[i]!;
      count++;
    }
    return sum / Math.max(count, 1);
  });
}
