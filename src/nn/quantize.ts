/** Weights rounded to 8 or 4 bits, row by row: a row holds the weights of one output. The layouts are those that `ops/quantized.ts` computes with. */
import { EspalierError, type TypedArray } from "../graph/index.ts";
import { type BlockCode, blockLevels, lowFirst } from "../ops/index.ts";

/** int8: one scale per output. int4, nf4: one per block of inputs. */
export type QuantizedDType = "int8" | BlockCode;

/** Quantised values and their scales, as they are stored. */
export interface Quantized {
  /** int8 [in, out], or uint8 [out, blocks, block/2]. */
  readonly values: TypedArray;
  /** [out], or [out, blocks]. */
  readonly scale: Float32Array;
}

/** Takes rows one after the other. */
export interface RowQuantizer extends Quantized {
  add(row: Float32Array): void;
}

const largestBlock: Readonly<Record<BlockCode, number>> = { int4: 32, nf4: 64 };

/** Inputs per scale: the largest block that divides a row, at most 32 (int4) or 64 (nf4). */
export function blockSize(code: BlockCode, inFeatures: number): number {
  for (let block = largestBlock[code]; block >= 16; block /= 2) if (inFeatures % block === 0) return block;
  throw new EspalierError(
    "block-size",
    `A layer of ${inFeatures} inputs cannot be stored as ${code}: its inputs do not divide into blocks of 16. Use int8.`,
  );
}

export function rowQuantizer(dtype: QuantizedDType, inFeatures: number, outFeatures: number): RowQuantizer {
  return dtype === "int8" ? int8Rows(inFeatures, outFeatures) : blockRows(dtype, inFeatures, outFeatures);
}

/** The largest magnitude becomes 127. */
function int8Rows(inFeatures: number, outFeatures: number): RowQuantizer {
  const values = new Int8Array(inFeatures * outFeatures);
  const scale = new Float32Array(outFeatures);
  let o = 0;
  return {
    values,
    scale,
    add(row) {
      scale[o] = Math.abs(extreme(row)) / 127;
      const inverse = inverseOf(scale[o]!);
      for (let i = 0; i < inFeatures; i++) values[i * outFeatures + o] = Math.round(row[i]! * inverse);
      o++;
    },
  };
}

function blockRows(code: BlockCode, inFeatures: number, outFeatures: number): RowQuantizer {
  const block = blockSize(code, inFeatures);
  const values = new Uint8Array((inFeatures * outFeatures) / 2);
  const scale = new Float32Array((inFeatures / block) * outFeatures);
  const nearest = code === "int4" ? nearestInt4 : nearestNormalFloat;
  const [first, second] = lowFirst[code] ? [0, 4] : [4, 0];
  let blocks = 0;
  return {
    values,
    scale,
    add(row) {
      for (let from = 0; from < inFeatures; from += block, blocks++) {
        const largest = extreme(row.subarray(from, from + block));
        // int4 reaches further down than up: the largest magnitude becomes −8, whatever its sign.
        scale[blocks] = code === "int4" ? largest / -8 : Math.abs(largest);
        const inverse = inverseOf(scale[blocks]!);
        const at = (blocks * block) / 2;
        for (let i = 0; i < block; i += 2)
          values[at + i / 2] = (nearest(row[from + i]! * inverse) << first) | (nearest(row[from + i + 1]! * inverse) << second);
      }
    },
  };
}

/** The element of the largest magnitude, with its sign. */
function extreme(row: Float32Array): number {
  let found = 0;
  let finite = true;
  for (const v of row) {
    if (Math.abs(v) > Math.abs(found)) found = v;
    finite = finite && Number.isFinite(v);
  }
  if (finite) return found;
  throw new EspalierError("not-finite", "A weight is NaN or infinite and cannot be quantised. Check the checkpoint.");
}

const inverseOf = (scale: number): number => (scale === 0 ? 0 : 1 / scale);

const nearestInt4 = (v: number): number => Math.min(15, Math.max(0, Math.round(v) + 8));

const betweenNormalFloats = blockLevels.nf4.slice(1).map((level, i) => (level + blockLevels.nf4[i]!) / 2);

function nearestNormalFloat(v: number): number {
  let pattern = 0;
  for (let step = 8; step > 0; step >>= 1) if (v > betweenNormalFloats[pattern + step - 1]!) pattern += step;
  return pattern;
}

/** The float32 weight [out, in] that quantised values stand for. */
export function dequantize({ values, scale }: Quantized, dtype: QuantizedDType, inFeatures: number, outFeatures: number): Float32Array {
  const weight = new Float32Array(inFeatures * outFeatures);
  if (dtype === "int8") {
    for (let o = 0; o < outFeatures; o++)
      for (let i = 0; i < inFeatures; i++) weight[o * inFeatures + i] = (values[i * outFeatures + o] as number) * scale[o]!;
    return weight;
  }
  const block = blockSize(dtype, inFeatures);
  const levels = blockLevels[dtype];
  for (let i = 0; i < weight.length; i++) {
    const pattern = ((values[i >> 1] as number) >> ((i % 2 === 0) === lowFirst[dtype] ? 0 : 4)) & 15;
    weight[i] = levels[pattern]! * scale[Math.floor(i / block)]!;
  }
  return weight;
}
