/**
 * Quantised operators. Integers that a graph computes from activations are carried as float32, exact below 2²⁴, so that gradients pass: rounding has
 * slope one (straight-through; Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons"). Weights stay the integers they are.
 */
import { formatShape, type Tensor } from "../../../graph/index.ts";
import * as ops from "../../../ops/index.ts";
import type { NodeContext, Result, Rules } from "../context.ts";

const float = (t: Tensor): Tensor => ops.cast(t, "float32");

/** Scale or zero point of `x`: one number, one per place of an axis, or one per block of an axis. */
function spread(n: NodeContext, t: Tensor, x: Tensor): Tensor {
  if (t.rank === 0 || (t.rank === 1 && t.shape[0] === 1)) return ops.reshape(t, []);
  const axis = n.axis(n.int("axis", 1), x.rank);
  const block = n.int("block_size", 0);
  if (block === 0 && t.rank === 1)
    return ops.reshape(
      t,
      x.shape.map((_, i) => (i === axis ? t.shape[0]! : 1)),
    );
  if (block === 0 || t.rank !== x.rank) throw n.fail(`a scale of shape ${formatShape(t.shape)} does not fit ${formatShape(x.shape)}`);
  const stretched = ops.expand(ops.unsqueeze(t, axis + 1), [...t.shape.slice(0, axis + 1), block, ...t.shape.slice(axis + 1)]);
  const size = (t.shape[axis] as number) * block;
  const all = ops.reshape(stretched, [...t.shape.slice(0, axis), size, ...t.shape.slice(axis + 1)]);
  return ops.slice(all, axis, 0, x.shape[axis]!);
}

function dequantize(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const zero = n.optional(2);
  const centered = zero ? ops.sub(float(x), spread(n, float(zero), x)) : float(x);
  return ops.mul(centered, spread(n, float(n.tensor(1)), x));
}

/** The smallest and largest integer of the type that a quantisation rounds to. */
function limits(n: NodeContext, zeroPoint: number): readonly [number, number] {
  const dtype = n.inputs[zeroPoint]?.dtype ?? "uint8";
  if (dtype === "int8") return [-128, 127];
  if (dtype === "uint8") return [0, 255];
  throw n.fail(`rounding to ${dtype} is not supported, only to int8 and uint8`);
}

/** round(x / scale) + zero, kept within the limits; its slope is that of x / scale. */
function rounded(x: Tensor, scale: Tensor, zero: ops.Operand, [low, high]: readonly [number, number]): Tensor {
  const exact = ops.add(ops.div(x, scale), zero);
  return ops.straightThrough(exact, ops.clip(ops.add(ops.round(ops.div(x, scale)), zero), low, high));
}

function quantize(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const zero = n.optional(2);
  return rounded(x, spread(n, n.tensor(1), x), zero ? spread(n, float(zero), x) : 0, limits(n, 2));
}

/** Scale and zero point of one tensor for 8 unsigned bits, zero being representable; they have no gradient. */
export function dynamicScale(x: Tensor): { scale: Tensor; zero: Tensor } {
  const still = ops.stopGradient(x);
  const low = ops.minimum(ops.min(still), 0);
  const high = ops.maximum(ops.max(still), 0);
  const scale = ops.div(ops.sub(high, low), 255);
  const usable = ops.where(ops.equal(scale, 0), 1, scale);
  return { scale: usable, zero: ops.clip(ops.round(ops.div(ops.neg(low), usable)), 0, 255) };
}

function dynamicQuantize(n: NodeContext): readonly Result[] {
  const x = n.tensor(0);
  const { scale, zero } = dynamicScale(x);
  return [rounded(x, scale, zero, [0, 255]), scale, zero];
}

/** A zero point per row of the left or per column of the right operand, or one for all. */
function centered(x: Tensor, zero: Tensor | undefined, side: "rows" | "columns"): Tensor {
  if (!zero) return float(x);
  const z = float(zero);
  const one = z.rank === 0 || (z.rank === 1 && z.shape[0] === 1);
  return ops.sub(float(x), one ? ops.reshape(z, []) : side === "rows" ? ops.unsqueeze(z, -1) : z);
}

function matMulInteger(n: NodeContext): Tensor {
  return ops.matmul(centered(n.tensor(0), n.optional(2), "rows"), centered(n.tensor(1), n.optional(3), "columns"));
}

/** `DynamicQuantizeMatMul`: the activations are rounded to 8 bits, the weight has a scale for all or per column. */
function dynamicQuantizeMatMul(n: NodeContext): Tensor {
  const x = n.tensor(0);
  const { scale, zero } = dynamicScale(x);
  const rows = ops.sub(rounded(x, scale, zero, [0, 255]), zero);
  const y = ops.mul(ops.matmul(rows, centered(n.tensor(1), n.optional(3), "columns")), ops.mul(scale, n.tensor(2)));
  const bias = n.optional(4);
  return bias ? ops.add(y, bias) : y;
}

function matMulIntegerToFloat(n: NodeContext): Tensor {
  const [a, b] = [centered(n.tensor(0), n.optional(4), "rows"), centered(n.tensor(1), n.optional(5), "columns")];
  const y = ops.mul(ops.matmul(a, b), ops.mul(n.tensor(2), n.tensor(3)));
  const bias = n.optional(6);
  return bias ? ops.add(y, bias) : y;
}

/** Packed halves of bytes [rows, bytes] → float32 [rows, count], the lower half first. */
function halves(bytes: Tensor, count: number): Tensor {
  const all = float(bytes);
  const high = ops.floor(ops.mul(all, 1 / 16));
  const pairs = ops.stack([ops.sub(all, ops.mul(high, 16)), high], 2);
  return ops.slice(ops.reshape(pairs, [bytes.shape[0]!, 2 * (bytes.shape[1] as number)]), 1, 0, count);
}

/**
 * `MatMulNBits`: a weight [out, in] of 4 or 8 bits with a scale, and a zero point, for each block of inputs. The product of 4-bit weights counts from
 * the middle pattern; a zero point elsewhere adds the sum of each block of inputs times (middle − zero)·scale.
 */
function matMulNBits(n: NodeContext): Tensor {
  const [bits, block] = [n.int("bits", 4), n.int("block_size", 32)];
  const [inner, outputs] = [n.int("K", 0), n.int("N", 0)];
  const packed = n.tensor(1);
  const blocks = Math.ceil(inner / block);
  const x = ops.pad(n.tensor(0), -1, 0, blocks * block - inner);
  if ((bits !== 4 && bits !== 8) || packed.dtype !== "uint8") throw n.fail(`weights of ${bits} bits are not supported, only of 4 and 8`);
  if (n.inputs[4]) throw n.fail("an order of the inputs of its own (g_idx) is not supported");
  const scale = ops.reshape(float(n.tensor(2)), [outputs, blocks]);
  const given = n.optional(3);
  const middle = 2 ** (bits - 1);
  const zero = given && zeroPoints(given, bits, outputs, blocks);
  const y = bits === 4 ? fourBits(x, packed, scale, zero && ops.sub(middle, zero)) : eightBits(x, packed, scale, zero ?? middle);
  const bias = n.optional(5);
  return bias ? ops.add(y, bias) : y;
}

/** float32 [outputs, blocks]. */
function zeroPoints(given: Tensor, bits: number, outputs: number, blocks: number): Tensor {
  if (given.dtype !== "uint8") return ops.reshape(float(given), [outputs, blocks]);
  if (bits === 8) return float(ops.reshape(given, [outputs, blocks]));
  return halves(ops.reshape(given, [outputs, Math.ceil(blocks / 2)]), blocks);
}

function fourBits(x: Tensor, packed: Tensor, scale: Tensor, offset: Tensor | undefined): Tensor {
  const y = ops.blockLinear(x, packed, scale, "int4", { exact: true });
  if (!offset) return y;
  const blocks = scale.shape[1] as number;
  const sums = ops.sum(ops.reshape(x, [...x.shape.slice(0, -1), blocks, (x.shape.at(-1) as number) / blocks]), -1);
  return ops.add(y, ops.linear(sums, ops.mul(offset, scale)));
}

function eightBits(x: Tensor, packed: Tensor, scale: Tensor, zero: ops.Operand): Tensor {
  const perBlock = (t: ops.Operand) => (typeof t === "number" ? t : ops.unsqueeze(t, 2));
  const weight = ops.mul(ops.sub(float(packed), perBlock(zero)), perBlock(scale));
  return ops.linear(x, ops.reshape(weight, [packed.shape[0]!, x.shape.at(-1)!]));
}

export const quantized: Rules = {
  DequantizeLinear: dequantize,
  QuantizeLinear: quantize,
  DynamicQuantizeLinear: dynamicQuantize,
  MatMulInteger: matMulInteger,
  "com.microsoft.MatMulNBits": matMulNBits,
  "com.microsoft.DequantizeLinear": dequantize,
  "com.microsoft.QuantizeLinear": quantize,
  "com.microsoft.DynamicQuantizeMatMul": dynamicQuantizeMatMul,
  "com.microsoft.MatMulIntegerToFloat": matMulIntegerToFloat,
};
