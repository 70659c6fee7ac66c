import { dimsEqual, shapesEqual, type Tensor } from "../graph/index.ts";
import { defineOp, shapeError } from "./define.ts";
import { add, cast, log, mul, sub, tanh, where } from "./elementwise.ts";
import { dims, node } from "./emission.ts";
import { gather, gatherElements, scatterElementsAdd } from "./indexing.ts";
import { type CrossEntropyOptions, countedTargets, crossEntropyPerTarget } from "./loss.ts";
import { linear, matmul } from "./matmul.ts";
import { expand, reshape, unsqueeze } from "./movement.ts";
import { max, sum } from "./reduce.ts";
import { inRowChunks } from "./row-chunks.ts";
import { softmax } from "./softmax.ts";

export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, "labelSmoothing"> {
  /** Added to the logits, [vocabulary]. */
  bias?: Tensor | undefined;
  /** Logits are kept within ±softcap by softcap·tanh(logit/softcap) (Gemma Team, "Gemma 2"). Default: they are not. */
  softcap?: number | undefined;
  /** The largest number of rows whose logits exist at one time. Default: as many as have 12 million logits (48 MB of float32). */
  chunk?: number | undefined;
}

/** Measured: with fewer rows at a time the products are slower, and with more they are not faster. */
const logitsAtOneTime = 12 * 2 ** 20;

interface Attrs {
  softcap: number | undefined;
  chunk: number;
}
type Head = { hidden: Tensor; weight: Tensor; bias: Tensor | undefined };
/** `targets` [rows, 1]. */
type Inputs = Head & { targets: Tensor };

/** Logits [rows, vocabulary], and their slope in what the cap is put on, where there is one. */
function logitsOf({ hidden, weight, bias }: Head, softcap: number | undefined) {
  const product = linear(hidden, weight);
  const raw = bias ? add(product, bias) : product;
  if (softcap === undefined) return { logits: raw };
  const t = tanh(mul(raw, 1 / softcap));
  return { logits: mul(t, softcap), slope: sub(1, mul(t, t)), bend: mul(t, -2 / softcap) };
}

/** The gradient of each row's loss for its logits before the cap, (softmax − one-hot) · slope, and what goes into that. */
function logitGradient(inputs: Inputs, softcap: number | undefined) {
  const { logits, slope, bend } = logitsOf(inputs, softcap);
  const probabilities = softmax(logits);
  // −1 of the targets' shape, without a word about that shape: the number of rows in a chunk may be unknown.
  const minusOne = sub(mul(cast(inputs.targets, logits.dtype), 0), 1);
  const capped = scatterElementsAdd(probabilities, inputs.targets, minusOne, -1);
  return { gradient: slope ? mul(capped, slope) : capped, probabilities, slope, bend };
}

const linearCrossEntropyOp = defineOp<Inputs, Attrs>({
  name: "LinearCrossEntropy",
  // The loss of each row [rows, 1], and its gradient for that row of `hidden`: the logits serve for both and are gone.
  type: ({ hidden, targets }) => [
    { dtype: hidden.dtype, shape: targets.shape },
    { dtype: hidden.dtype, shape: hidden.shape },
  ],
  emit: ({ hidden, weight, bias, targets }, { softcap, chunk }, { inputs, read }) => {
    const rows = inputs.hidden.shape[0]!;
    const { rows: computed } = inRowChunks({
      rows,
      limit: chunk,
      cut: {
        hidden: { ref: hidden, type: inputs.hidden },
        targets: { ref: targets, type: inputs.targets },
        ids: { ref: node("Reshape", [targets, dims([rows])]), type: { dtype: "int64", shape: [rows] } },
      },
      whole: { weight: { ref: weight, type: inputs.weight }, bias: bias && { ref: bias, type: inputs.bias! } },
      fn: (of) => {
        const { logits, slope } = logitsOf(of as Head, softcap);
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
      },
    });
    return [computed[0]!, computed.at(-1)!];
  },
  grad: ({ outputs, y: _y, ...inputs }, dy, attrs, [dLosses, dGradient]) => {
    const [, dHidden] = outputs as [Tensor, Tensor];
    const [weight, bias] = dLosses ? headGradientOp.all({ ...inputs, factors: dy }, attrs) : [];
    const first = { hidden: dLosses && mul(dHidden, dy), weight, bias };
    if (!dGradient) return first;
    // Second derivatives, because the first one reads dHidden = gradient · weight.
    const { gradient, ...at } = logitGradient(inputs, attrs.softcap);
    const second = throughLogits(inputs, logitCurvature(at, gradient, matmul(dGradient, inputs.weight, { transposeB: true })));
    return plus(first, { ...second, weight: add(second.weight, matmul(gradient, dGradient, { transposeA: true })) });
  },
});

type HeadGradientInputs = Inputs & { factors: Tensor };

/** Of Σ factor · loss, the gradients for the weight and (where there is one) the bias. Computes the logits once more. */
const headGradientOp = defineOp<HeadGradientInputs, Attrs>({
  name: "LinearCrossEntropyHeadGradient",
  type: ({ weight, bias }) => [weight, ...(bias ? [bias] : [])].map(({ dtype, shape }) => ({ dtype, shape })),
  emit: ({ hidden, weight, bias, targets, factors }, { softcap, chunk }, { inputs, read }) => {
    const { sums } = inRowChunks({
      rows: inputs.hidden.shape[0]!,
      limit: chunk,
      cut: {
        hidden: { ref: hidden, type: inputs.hidden },
        targets: { ref: targets, type: inputs.targets },
        factors: { ref: factors, type: inputs.factors },
      },
      whole: { weight: { ref: weight, type: inputs.weight }, bias: bias && { ref: bias, type: inputs.bias! } },
      fn: (of) => {
        const { gradient } = logitGradient(of as Inputs, softcap);
        // A factor per row is cheaper on the side of the hidden states, which are narrower.
        const ofWeight = () => matmul(gradient, mul(of.hidden!, of.factors!), { transposeA: true });
        const ofBias = () => sum(mul(gradient, of.factors!), 0);
        return { sums: [ofWeight, ofBias].filter((_, i) => read[i]).map((compute) => compute()) };
      },
    });
    return bias ? [sums[0]!, sums.at(-1)!] : [sums[0]!];
  },
  grad: ({ outputs: _outputs, y: _y, ...inputs }, _dy, { softcap }, [dWeight, dBias]) => {
    const { hidden, factors } = inputs;
    const { gradient, ...at } = logitGradient(inputs, softcap);
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
  const { bias, softcap } = options;
  const fail = (reason: string) => shapeError("LinearCrossEntropy", { hidden, weight, targets, bias }, reason);
  if (hidden.rank < 1 || weight.rank !== 2 || !dimsEqual(weight.shape[1]!, hidden.shape.at(-1)!))
    throw fail("the weight must be [vocabulary, width], and the hidden states [..., width]");
  if (targets.dtype !== "int64" || !shapesEqual(targets.shape, hidden.shape.slice(0, -1)))
    throw fail("targets must be int64 and have the shape of the hidden states without the last axis");
  if (bias && !shapesEqual(bias.shape, [weight.shape[0]!])) throw fail("the bias must be [vocabulary]");
  if ([weight, bias].some((t) => t && t.dtype !== hidden.dtype)) throw fail("the operands must have one dtype; cast one of them");
  if (softcap !== undefined && !(softcap > 0)) throw fail(`the cap must be above 0, got ${softcap}`);
  const vocabulary = weight.shape[0]!;
  const chunk = options.chunk ?? (typeof vocabulary === "number" ? Math.max(1, Math.floor(logitsAtOneTime / Math.max(1, vocabulary))) : 64);
  if (!Number.isInteger(chunk) || chunk < 1) throw fail(`a chunk must have at least one row, got ${chunk}`);

  const { counted, ids, weights } = countedTargets(targets, hidden.dtype, options);
  const rows = reshape(where(unsqueeze(counted, -1), hidden, 0), [-1, hidden.shape.at(-1)!]);
  const losses = linearCrossEntropyOp({ hidden: rows, weight, bias, targets: reshape(ids, [-1, 1]) }, { softcap, chunk });
  // By selection, so that nothing about an ignored target can matter, an infinite weight included.
  return { losses: where(counted, mul(reshape(losses, targets.shape), weights), 0), weights };
}
