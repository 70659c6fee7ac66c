import { type Dim, dimsEqual, elementCount, type Node, shapesEqual, sizeOf, type Tensor } from "../graph/index.ts";
import { type ComputeDtype, computeDtype, computingIn } from "./compute-dtype.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, cast, log, mul, softcap, sub, where } from "./elementwise.ts";
import { dims, node, type Ref } from "./emission.ts";
import { gather, gatherElements, scatterElementsAdd } from "./indexing.ts";
import { computesInInt8, roundedColumns } from "./int8-training.ts";
import { type CrossEntropyOptions, countedTargets, crossEntropyPerTarget } from "./loss.ts";
import { linear, linearOf, matmul } from "./matmul.ts";
import { expand, reshape, unsqueeze } from "./movement.ts";
import { int8Linear } from "./quantized.ts";
import { max, sum } from "./reduce.ts";
import { type Given, inRowChunks } from "./row-chunks.ts";
import { softmax } from "./softmax.ts";

export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, "labelSmoothing"> {
  /** Added to the logits, [vocabulary]. */
  bias?: Tensor | undefined;
  /** Logits are kept within ±softcap; see {@link softcap}. Default: they are not. */
  softcap?: number | undefined;
  /** The largest number of rows whose logits exist at one time. Default: as many as have 20 million logits (80 MB of float32). */
  chunk?: number | undefined;
}

/** With half as many the products take a tenth longer, because each packs the weight anew; with twice as many they gain a twentieth (measured). */
const logitsAtOneTime = 20 * 2 ** 20;

/** The largest number of rows that have no more logits than exist at one time. */
export const rowsAtOneTime = (vocabulary: Dim): number =>
  typeof vocabulary === "number" ? Math.max(1, Math.floor(logitsAtOneTime / Math.max(1, vocabulary))) : 64;

interface Attrs {
  cap: number | undefined;
  chunk: number;
  /** What the products are computed in. */
  compute: ComputeDtype;
}
/** The weight as int8 [width, vocabulary] and the scale of each output, where the logits are computed in integers. No other product of the head is. */
type Rounded = { rounded?: Tensor; scale?: Tensor };
type Head = { hidden: Tensor; weight: Tensor; bias: Tensor | undefined };
/** `targets` [rows, 1]. */
type Inputs = Head & { targets: Tensor };

/** `fn` with its products computed in `dtype`, whenever it is called. */
const computed =
  <A, T>(dtype: ComputeDtype, fn: (of: A) => T) =>
  (of: A): T =>
    computingIn(dtype, () => fn(of));

/** Logits [rows, vocabulary], and their slope in what the cap is put on, where there is one. */
function logitsOf({ hidden, weight, bias, rounded, scale }: Head & Rounded, cap: number | undefined) {
  const product = rounded && scale ? int8Linear(hidden, rounded, scale) : linear(hidden, weight);
  const raw = bias ? add(product, bias) : product;
  if (cap === undefined) return { logits: raw };
  const logits = softcap(raw, cap);
  const t = mul(logits, 1 / cap);
  return { logits, slope: sub(1, mul(t, t)), bend: mul(t, -2 / cap) };
}

/** The gradient of each row's loss for its logits before the cap, (softmax − one-hot) · slope, and what goes into that. */
function logitGradient(inputs: Inputs & Rounded, cap: number | undefined) {
  const { logits, slope, bend } = logitsOf(inputs, cap);
  const probabilities = softmax(logits);
  // −1 of the targets' shape, without a word about that shape: the number of rows in a chunk may be unknown.
  const minusOne = sub(mul(cast(inputs.targets, logits.dtype), 0), 1);
  const capped = scatterElementsAdd(probabilities, inputs.targets, minusOne, -1);
  return { gradient: slope ? mul(capped, slope) : capped, probabilities, slope, bend };
}

/** What {@link Rounded} is in ONNX, once for all chunks. */
function rounding(ref: Ref, { weight: { shape } }: Head, compute: ComputeDtype): { rounded?: Given; scale?: Given } {
  if (compute !== "int8") return {};
  const { weight, scale } = roundedColumns(ref, shape[0] as number);
  return {
    rounded: { ref: weight, type: { dtype: "int8", shape: [shape[1]!, shape[0]!] } },
    scale: { ref: scale, type: { dtype: "float32", shape: [shape[0]!] } },
  };
}

const linearCrossEntropyOp = defineOp<Inputs, Attrs>({
  name: "LinearCrossEntropy",
  // The loss of each row [rows, 1], and its gradient for that row of `hidden`: the logits serve for both and are gone.
  type: ({ hidden, targets }) => [
    { dtype: hidden.dtype, shape: targets.shape },
    { dtype: hidden.dtype, shape: hidden.shape },
  ],
  emit: ({ hidden, weight, bias, targets }, { cap, chunk, compute }, { inputs, read }) => {
    const rows = inputs.hidden.shape[0]!;
    const { rows: results } = inRowChunks({
      rows,
      limit: chunk,
      cut: {
        hidden: { ref: hidden, type: inputs.hidden },
        targets: { ref: targets, type: inputs.targets },
        ids: { ref: node("Reshape", [targets, dims([rows])]), type: { dtype: "int64", shape: [rows] } },
      },
      whole: {
        weight: { ref: weight, type: inputs.weight },
        bias: bias && { ref: bias, type: inputs.bias! },
        ...rounding(weight, inputs, compute),
      },
      fn: computed(compute, (of) => {
        const { logits, slope } = logitsOf(of as Head, cap);
        const probabilities = softmax(logits);
        // log Σeᶻ = max z − log max p: the softmax has added up the exponentials, and its largest value tells their sum.
        const total = sub(max(logits, -1, { keepDims: true }), log(max(probabilities, -1, { keepDims: true })));
        const losses = () => sub(total, gatherElements(logits, of.targets!));
        // The one-hot part of the gradient picks a row of the weight: less work than to write it into the probabilities.
        const dHidden = () => {
          const picked = gather(of.weight!, of.ids!);
          if (!slope) return sub(matmul(probabilities, of.weight!), picked);
          return sub(matmul(mul(probabilities, slope), of.weight!), mul(picked, gatherElements(slope, of.targets!)));
        };
        return { rows: [losses, dHidden].filter((_, i) => read[i]).map((compute) => compute()) };
      }),
    });
    return [results[0]!, results.at(-1)!];
  },
  grad: ({ outputs, y: _y, ...inputs }, dy, attrs, [dLosses, dGradient]) => {
    const [, dHidden] = outputs as [Tensor, Tensor];
    const [weight, bias] = dLosses ? headGradientOp.all({ ...inputs, factors: dy }, attrs) : [];
    const first = { hidden: dLosses && mul(dHidden, dy), weight, bias };
    if (!dGradient) return first;
    // Second derivatives, because the first one reads dHidden = gradient · weight.
    const { gradient, ...at } = logitGradient(inputs, attrs.cap);
    const second = throughLogits(inputs, logitCurvature(at, gradient, matmul(dGradient, inputs.weight, { transposeB: true })));
    return plus(first, { ...second, weight: add(second.weight, matmul(gradient, dGradient, { transposeA: true })) });
  },
});

type HeadGradientInputs = Inputs & { factors: Tensor };

/** Of Σ factor · loss, the gradients for the weight and (where there is one) the bias. Computes the logits once more. */
const headGradientOp = defineOp<HeadGradientInputs, Attrs>({
  name: "LinearCrossEntropyHeadGradient",
  type: ({ weight, bias }) => [weight, ...(bias ? [bias] : [])].map(({ dtype, shape }) => ({ dtype, shape })),
  emit: ({ hidden, weight, bias, targets, factors }, { cap, chunk, compute }, { inputs, read }) => {
    const { sums } = inRowChunks({
      rows: inputs.hidden.shape[0]!,
      limit: chunk,
      cut: {
        hidden: { ref: hidden, type: inputs.hidden },
        targets: { ref: targets, type: inputs.targets },
        factors: { ref: factors, type: inputs.factors },
      },
      whole: {
        weight: { ref: weight, type: inputs.weight },
        bias: bias && { ref: bias, type: inputs.bias! },
        ...rounding(weight, inputs, compute),
      },
      fn: computed(compute, (of) => {
        const { gradient } = logitGradient(of as Inputs, cap);
        // A factor per row is cheaper on the side of the hidden states, which are narrower.
        const ofWeight = () => matmul(gradient, mul(of.hidden!, of.factors!), { transposeA: true });
        const ofBias = () => sum(mul(gradient, of.factors!), 0);
        return { sums: [ofWeight, ofBias].filter((_, i) => read[i]).map((compute) => compute()) };
      }),
    });
    return bias ? [sums[0]!, sums.at(-1)!] : [sums[0]!];
  },
  grad: ({ outputs: _outputs, y: _y, ...inputs }, _dy, { cap }, [dWeight, dBias]) => {
    const { hidden, factors } = inputs;
    const { gradient, ...at } = logitGradient(inputs, cap);
    const product = dWeight && linear(hidden, dWeight);
    const v = product && dBias ? add(product, dBias) : (product ?? expand(dBias!, gradient.shape));
    const curved = throughLogits(inputs, logitCurvature(at, gradient, mul(v, factors)));
    return {
      ...curved,
      hidden: dWeight ? add(curved.hidden, mul(matmul(gradient, dWeight), factors)) : curved.hidden,
      factors: sum(mul(gradient, v), -1, { keepDims: true }),
    };
  },
});

type At = Omit<ReturnType<typeof logitGradient>, "gradient">;

/** What a cotangent of {@link logitGradient} becomes at the logits before the cap. */
function logitCurvature({ probabilities, slope, bend }: At, gradient: Tensor, cotangent: Tensor): Tensor {
  const q = slope ? mul(cotangent, slope) : cotangent;
  const ofSoftmax = mul(probabilities, sub(q, sum(mul(probabilities, q), -1, { keepDims: true })));
  return slope && bend ? add(mul(ofSoftmax, slope), mul(mul(gradient, bend), cotangent)) : ofSoftmax;
}

/** The gradients for hidden states, weight and bias, given that for the logits. */
const throughLogits = ({ hidden, weight, bias }: Head, d: Tensor) => ({
  hidden: matmul(d, weight),
  weight: matmul(d, hidden, { transposeA: true }),
  bias: bias && sum(d, 0),
});

type HeadGradients = { [K in keyof Head]: Tensor | undefined };

const plus = (a: HeadGradients, b: HeadGradients): HeadGradients => {
  const of = (x: Tensor | undefined, y: Tensor | undefined) => (x && y ? add(x, y) : (x ?? y));
  return { hidden: of(a.hidden, b.hidden), weight: of(a.weight, b.weight), bias: of(a.bias, b.bias) };
};

/**
 * {@link crossEntropyPerTarget} of the logits `hidden` · `weight`ᵀ, which are never there as a whole: chunks of rows follow one another, and each leaves
 * its losses and its part of the gradient. `hidden` [..., width], `weight` [vocabulary, width], `targets` int64 [...].
 *
 * With a frozen weight the two products are those of the plain composition. The gradient of a weight that is trained computes the logits again:
 * four products of that size in place of three. Second derivatives hold whole logits.
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): { losses: Tensor; weights: Tensor } {
  const { bias, softcap: cap } = options;
  const fail = (reason: string) => shapeError("LinearCrossEntropy", { hidden, weight, targets, bias }, reason);
  if (hidden.rank < 1 || weight.rank !== 2 || !dimsEqual(weight.shape[1]!, hidden.shape.at(-1)!))
    throw fail("the weight must be [vocabulary, width], and the hidden states [..., width]");
  if (targets.dtype !== "int64" || !shapesEqual(targets.shape, hidden.shape.slice(0, -1)))
    throw fail("targets must be int64 and have the shape of the hidden states without the last axis");
  if (bias && !shapesEqual(bias.shape, [weight.shape[0]!])) throw fail("the bias must be [vocabulary]");
  if ([weight, bias].some((t) => t && t.dtype !== hidden.dtype)) throw fail("the operands must have one dtype; cast one of them");
  const chunk = options.chunk ?? rowsAtOneTime(weight.shape[0]!);
  if (!Number.isInteger(chunk) || chunk < 1) throw fail(`a chunk must have at least one row, got ${chunk}`);

  const { counted, ids, weights } = countedTargets(targets, hidden.dtype, options);
  const rows = reshape(where(unsqueeze(counted, -1), hidden, 0), [-1, hidden.shape.at(-1)!]);
  const compute = computeDtype() === "int8" && !computesInInt8(weight) ? "float32" : computeDtype();
  const losses = linearCrossEntropyOp({ hidden: rows, weight, bias, targets: reshape(ids, [-1, 1]) }, { cap, chunk, compute });
  // By selection, so that nothing about an ignored target can matter, an infinite weight included.
  return { losses: where(counted, mul(reshape(losses, targets.shape), weights), 0), weights };
}

/**
 * {@link crossEntropyPerTarget} for logits that nothing else reads. Where a head computed them (`linear`, with or without a bias and a cap) and they are
 * many, they are left out of the program, and {@link linearCrossEntropy} takes their place. A head of another form, as an adapter makes it, keeps them.
 */
export function crossEntropyOfHead(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): { losses: Tensor; weights: Tensor } {
  const head = headOf(logits);
  const rows = sizeOf(logits.shape.slice(0, -1));
  const isSmall = typeof rows === "number" && rows <= rowsAtOneTime(logits.shape.at(-1) ?? 1);
  if (!head || isSmall || options.labelSmoothing) return crossEntropyPerTarget(logits, targets, options);
  const { hidden, weight, bias, cap } = head;
  return linearCrossEntropy(hidden, weight, targets, { ...options, bias, softcap: cap });
}

/** What a head computed these logits of. */
function headOf(logits: Tensor): (Head & { cap: number | undefined }) | undefined {
  const cap = logits.node.op.name === "Softcap" ? (logits.node.attrs.cap as number) : undefined;
  const raw = cap === undefined ? logits : logits.node.inputs.x!;
  const { a, b } = raw.node.inputs;
  const bias = raw.node.op.name === "Add" && b?.rank === 1 ? b : undefined;
  const product = linearOf(bias ? a! : raw);
  return product && { hidden: product.x, weight: product.weight, bias, cap };
}

/** As {@link matmulFlops}, for the nodes of this file: the logits, and a product of their size for each gradient that something reads. */
export function linearCrossEntropyFlops(n: Node, read: ReadonlySet<Tensor>): number | undefined {
  const isLoss = n.op === linearCrossEntropyOp;
  if (!isLoss && n.op !== headGradientOp) return undefined;
  const sizes = [...n.inputs.hidden!.shape, n.inputs.weight!.shape[0]!];
  const products = 1 + (read.has(n.outputs[isLoss ? 1 : 0]!) ? 1 : 0);
  return sizes.every((d): d is number => typeof d === "number") ? 2 * products * elementCount(sizes) : undefined;
}

/**
 * Elements of what a node of this file holds while it runs, beside its operands and results: the logits of one chunk and their probabilities; for the
 * gradient of the weight also the zeros that it begins with, a chunk's part, and the two buffers in which ONNX Runtime's Scan adds up.
 */
export function linearCrossEntropyWorkspace(n: Node): number[] {
  if (n.op !== linearCrossEntropyOp && n.op !== headGradientOp) return [];
  const { hidden, weight } = n.inputs;
  const [rows, vocabulary] = [hidden!.shape[0]!, weight!.shape[0]!];
  if (typeof vocabulary !== "number") return [];
  const chunk = n.attrs.chunk as number;
  const logits = vocabulary * (typeof rows === "number" ? Math.min(rows, chunk) : chunk);
  const sums = n.op === headGradientOp ? Array<number>(4).fill(elementCount(weight!.shape as number[])) : [];
  return [logits, logits, ...sums];
}
