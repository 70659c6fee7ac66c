/** The loss of Graves et al., "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks". */
import { type Dim, EspalierError, Graph, type Tensor, tracing } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import {
  add,
  cast,
  equal,
  exp,
  greaterOrEqual,
  less,
  log,
  logicalAnd,
  logicalNot,
  logicalOr,
  maximum,
  mul,
  neg,
  sub,
  where,
} from "./elementwise.ts";
import { node, result } from "./emission.ts";
import { gatherElements } from "./indexing.ts";
import { concat, expand, fill, pad, range, reshape, slice, squeeze, stack, transpose, unsqueeze } from "./movement.ts";
import { logSumExp, sum } from "./reduce.ts";
import { logSoftmax } from "./softmax.ts";

export interface CtcOptions {
  /** The id that stands for no label. Default 0. */
  blank?: number;
  /** int64 [batch]: the frames of each sound. Default: all. */
  lengths?: Tensor | undefined;
}

/** The logarithm of 0: finite, so that differences of two stay numbers. */
const never = -1e30;

/**
 * The states that a spelling goes through, a blank around each label, [batch, 2·labels + 1], and what ways lead through them; all in logarithms
 * (0: allowed, {@link never}: not).
 */
type Ways = {
  /** [frames, batch, states]: how likely each state is to be heard in each frame. */
  emissions: Tensor;
  /** [batch, states]: whether the state may follow the one before the last, as a label may that differs from the label before. */
  leap: Tensor;
  /** bool [frames, batch, 1]: frames that belong to the sound. */
  active: Tensor;
  /** [batch, states]: the first state, where a way begins before the first frame, or in reverse the last. */
  start: Tensor;
};

/** log(eᵃ + eᵇ + eᶜ), elementwise. */
function logSum3(a: Tensor, b: Tensor, c: Tensor): Tensor {
  const top = maximum(maximum(a, b), c);
  const [first, second, third] = [a, b, c].map((t) => exp(sub(t, top))) as [Tensor, Tensor, Tensor];
  return add(top, log(add(add(first, second), third)));
}

/** States moved by `count` places to the right, or with a negative count to the left. */
function shifted(x: Tensor, count: number): Tensor {
  return count > 0 ? slice(pad(x, 1, count, 0, never), 1, 0, x.shape[1]!) : slice(pad(x, 1, 0, -count, never), 1, -count);
}

/** One more frame: every way goes on in its state, in the next one, or leaps over a blank. */
function step(before: Tensor, emission: Tensor, active: Tensor, leap: Tensor, reverse: boolean): Tensor {
  const side = reverse ? -1 : 1;
  // Into which state a leap goes decides: in reverse that is where it comes from.
  const leaps = reverse ? shifted(add(before, leap), -2) : add(shifted(before, 2), leap);
  return where(active, add(emission, logSum3(before, shifted(before, side), leaps)), before);
}

/**
 * [frames, batch, states]: how likely it is to be in each state at each frame and to have heard what was heard until then, or in reverse from then
 * on, that frame included. A Scan over the frames; frames after a sound's end change nothing.
 */
const waysOp = defineOp<Ways, { reverse: boolean }>({
  name: "CtcWays",
  type: ({ emissions }) => ({ dtype: emissions.dtype, shape: emissions.shape }),
  emit: ({ emissions, leap, active, start }, { reverse }, { inputs }) => {
    const graph = new Graph();
    const body = tracing(graph, () => {
      const like = ({ dtype, shape }: Tensor, name: string) => graph.input(name, dtype, shape);
      const frame = ({ dtype, shape }: Tensor, name: string) => graph.input(name, dtype, shape.slice(1));
      const before = like(inputs.start, "before");
      const [heard, on] = [frame(inputs.emissions, "emission"), frame(inputs.active, "active")];
      const given = like(inputs.leap, "leap");
      return { inputs: [before, heard, on], given, next: step(before, heard, on, given, reverse) };
    });
    const direction = reverse ? 1 : 0;
    const scan = node(
      "Scan",
      [start, emissions, active],
      {
        body: { graph, results: [body.next, body.next], inputs: body.inputs, outer: new Map([[body.given, leap]]) },
        num_scan_inputs: 2,
        scan_input_directions: [direction, direction],
        scan_output_directions: [direction],
      },
      { outputs: 2 },
    );
    return result(scan, 1);
  },
  grad: () => {
    throw new EspalierError("no-second-derivative", "The loss of connectionist temporal classification has no second derivative here.");
  },
});

/** `likelihood` [batch], whose gradient for the emissions is how much of the ways goes through each state at each frame. */
const likelihoodOp = defineOp<Ways & { forward: Tensor; likelihood: Tensor; last: Tensor }, object>({
  name: "CtcLikelihood",
  type: ({ likelihood }) => ({ dtype: likelihood.dtype, shape: likelihood.shape }),
  emit: ({ likelihood }) => likelihood,
  grad: ({ emissions, leap, active, last, forward, likelihood }, dy) => {
    const backward = waysOp({ emissions, leap, active, start: last }, { reverse: true });
    const perSound = (t: Tensor) => unsqueeze(unsqueeze(t, 0), 2);
    // Both count the frame's own emission.
    const through = exp(sub(sub(add(forward, backward), emissions), perSound(likelihood)));
    const possible = logicalAnd(active, greaterOrEqual(perSound(likelihood), never / 2));
    return { emissions: mul(where(possible, through, 0), perSound(dy)) };
  },
});

const logOf = (allowed: Tensor, dtype: Tensor["dtype"]): Tensor => cast(where(allowed, 0, never), dtype);

/**
 * −log of the probability that a sound is spelt as its labels, over all ways to place them: repetitions are joined unless a blank is between them, and
 * blanks left out.
 *
 * @param logits [batch, frames, vocabulary]
 * @param targets int64 [batch, labels], filled up on the right with ids below 0, such as −100
 * @returns `losses` [batch] and `weights` [batch]: 1, and 0 (with a loss of 0) for a sound that has too few frames for its labels
 */
export function ctcLoss(logits: Tensor, targets: Tensor, { blank = 0, lengths }: CtcOptions = {}): { losses: Tensor; weights: Tensor } {
  const [batch, frames] = logits.shape as [Dim, Dim, Dim];
  const operands = { logits, targets, lengths };
  if (logits.rank !== 3 || targets.rank !== 2) throw shapeError("CtcLoss", operands, "logits need three axes and targets two");
  if (targets.dtype !== "int64" || (lengths && (lengths.dtype !== "int64" || lengths.rank !== 1)))
    throw shapeError("CtcLoss", operands, "targets and lengths must be int64, and lengths one for each sound");
  const { dtype } = logits;
  const isLabel = greaterOrEqual(targets, 0);
  const blanks = fill(targets.shape, blank, "int64");
  const labels = where(isLabel, targets, blanks);
  // blank, label, blank, label, …, blank
  const pairs = reshape(stack([blanks, labels], 2), [batch, -1]);
  const states = concat([pairs, fill([batch, 1], blank, "int64")], 1);
  const count = states.shape[1]!;
  const places = unsqueeze(range(count), 0);
  const last = mul(sum(cast(isLabel, "int64"), 1, { keepDims: true }), 2);
  const twoBefore = slice(pad(states, 1, 2, 0, -1), 1, 0, count);
  const leaps = logicalNot(logicalOr(equal(states, blank), equal(states, twoBefore)));
  const heard = gatherElements(logSoftmax(logits), expand(unsqueeze(states, 1), [batch, frames, count]), 2);
  const frameIds = reshape(range(frames), [frames, 1, 1]);
  const ways: Ways = {
    emissions: transpose(heard, [1, 0, 2]),
    leap: logOf(leaps, dtype),
    active: lengths ? less(frameIds, reshape(lengths, [1, batch, 1])) : fill([frames, batch, 1], 1, "bool"),
    start: expand(logOf(equal(places, 0), dtype), [batch, count]),
  };
  const forward = waysOp(ways, { reverse: false });
  const atEnd = squeeze(slice(forward, 0, -1), 0);
  // A way ends in the last label or in the blank behind it.
  const ends = logicalOr(equal(places, last), equal(places, sub(last, 1)));
  const value = logSumExp(add(atEnd, logOf(ends, dtype)), 1);
  const likelihood = likelihoodOp({ ...ways, forward, likelihood: value, last: logOf(equal(places, last), dtype) }, {});
  const possible = greaterOrEqual(value, never / 2);
  return { losses: where(possible, neg(likelihood), 0), weights: cast(possible, dtype) };
}
