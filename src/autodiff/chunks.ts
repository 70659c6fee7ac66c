import { currentGraph, isFloat, type Node, type Tensor } from "../graph/index.ts";
import { type ChunksAttrs, chunked, chunkOperands, inline, zerosLike } from "../ops/index.ts";
import { vjp } from "./grad.ts";

/**
 * The gradient of what is computed in chunks: chunks again, each of which recomputes its values and differentiates them. Gradients of the operands that
 * were cut come by rows, those of what every chunk reads are added up.
 */
export function chunksGradient(node: Node, dys: readonly (Tensor | undefined)[]): Record<string, Tensor | undefined> {
  const { body, limit, zeroFilled } = node.attrs as unknown as ChunksAttrs;
  const { cut, captured } = chunkOperands(node);
  const cutNames = Object.keys(cut).filter((name) => isFloat(cut[name]!.dtype));
  const whole = [...captured.entries()].filter(([, t]) => isFloat(t.dtype));
  // Gradients of the rows are cut like the rows; where a last chunk is filled up they are zero, so that the copies there count nothing.
  const order = Object.keys(cut).length; // a gradient's own gradient has seeds already
  const seedName = (i: number) => `gradient of result ${i} (${order})`;
  const seeds = Object.fromEntries(dys.flatMap((dy, i) => (dy && i < body.rowResults ? [[seedName(i), dy]] : [])));
  let flowing: boolean[] = [];
  const gradients = chunked(
    { ...cut, ...seeds },
    { limit, zeroFilled: new Set([...zeroFilled, ...Object.keys(seeds)]) },
    (parts, number) => {
      const leaves = new Map([...body.parts].map(([name, leaf]) => [leaf, parts[name]!]));
      const values = inline(body.graph, leaves.set(body.number, number));
      const of = [...cutNames.map((name) => parts[name]!), ...whole.map(([, t]) => t)];
      const found = vjp(
        body.results.map((t) => values.get(t) ?? t),
        dys.map((dy, i) => dy && (i < body.rowResults ? parts[seedName(i)] : dy)),
        of,
        currentGraph(), // as in when.ts
      );
      flowing = found.map((g) => g !== undefined);
      return {
        rows: cutNames.map((_, i) => found[i] ?? zerosLike(of[i]!)),
        sums: found.slice(cutNames.length).filter((g) => g !== undefined),
      };
    },
  );
  let next = cutNames.length;
  return Object.fromEntries([
    ...cutNames.map((name, i) => [`rows.${name}`, gradients[i]]),
    ...whole.map(([i], at) => [`capture.${i}`, flowing[cutNames.length + at] ? gradients[next++] : undefined]),
  ]);
}
