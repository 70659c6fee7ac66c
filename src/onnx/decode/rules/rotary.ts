import { dimsEqual, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import { agree } from "../agreement.ts";
import type { NodeContext } from "../context.ts";

export interface Rotation {
  /** Tables [positions, half]; or, without positions, the values of each token [batch, time, half]. */
  cos: Tensor;
  sin: Tensor;
  /** int64 [batch, time]. */
  positions?: Tensor;
  /** Pairs are neighbours (GPT-J) instead of the two halves (NeoX, Llama). */
  interleaved: boolean;
}

/** `x` [batch, heads, time, width] turned by its positions. Where the tables are narrower than half the width, the rest stays as it is. */
export function rotated(n: NodeContext, x: Tensor, { cos, sin, positions, interleaved }: Rotation): Tensor {
  const half = cos.shape.at(-1);
  const width = x.shape[3];
  if (typeof half !== "number" || typeof width !== "number" || 2 * half > width)
    throw n.fail(`tables of width ${half} do not fit heads of width ${width}`);
  if (positions) agree(x.shape[2]!, positions.shape.at(-1)!);
  const turning = 2 * half === width ? x : ops.slice(x, 3, 0, 2 * half);
  const y =
    positions && !interleaved && cos.rank === 2 && dimsEqual(positions.shape[0]!, x.shape[0]!)
      ? ops.rotary(turning, cos, sin, positions)
      : composed(turning, half, rows(cos, positions), rows(sin, positions), interleaved);
  return 2 * half === width ? y : ops.concat([y, ops.slice(x, 3, 2 * half)], 3);
}

/** [batch, 1, time, half] for the tokens. */
const rows = (table: Tensor, positions: Tensor | undefined): Tensor => ops.unsqueeze(positions ? ops.gather(table, positions) : table, 1);

function composed(x: Tensor, half: number, cos: Tensor, sin: Tensor, interleaved: boolean): Tensor {
  const pairs = interleaved ? [...x.shape.slice(0, 3), half, 2] : [...x.shape.slice(0, 3), 2, half];
  const axis = interleaved ? 4 : 3;
  const split = ops.reshape(x, pairs);
  const [first, second] = [0, 1].map((i) => ops.squeeze(ops.slice(split, axis, i, i + 1), axis)) as [Tensor, Tensor];
  const turned = [ops.sub(ops.mul(first, cos), ops.mul(second, sin)), ops.add(ops.mul(second, cos), ops.mul(first, sin))];
  return ops.reshape(ops.stack(turned, axis), x.shape);
}
