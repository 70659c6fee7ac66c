import { currentGraph, type Tensor } from "../../graph/index.ts";
import { abs, add, cast, div, floor, gatherElements, max, maximum, mul, reshape, sign, sqrt, sub } from "../../ops/index.ts";

/**
 * Numbers in 8 bits with one scale for each block of 256: block-wise dynamic quantisation (Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit Optimizers via
 * Block-wise Quantization"). A code is a place in a table of 256 values between −1 (or 0) and 1 that stand closer together the nearer they are to zero: seven
 * decades, of which each has twice as many values as the one below. A value is coded as the nearest of the table, relative to the largest of its block.
 */
export const blockSize = 256;

/** The table, ascending; `signed`: −0.993 … 1, else 0 … 1. It is that of bitsandbytes. */
export function dynamicTable(signed: boolean): Float32Array {
  const f = Math.fround;
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const cells = 2 ** (signed ? decade : decade + 1);
    const size = f(10 ** (decade - 6));
    const step = f(f(1 - f(0.1)) / cells);
    // From the nearer end, and rounded once, as torch.linspace does.
    const edge = (i: number) => (i < Math.floor((cells + 1) / 2) ? f(f(0.1) + step * i) : f(1 - step * (cells - i)));
    for (let i = 0; i < cells; i++) {
      const value = f(size * f(f(edge(i) + edge(i + 1)) / 2));
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

/** x ↦ ±|x|^¼·cells: on this scale no two borders between codes are as near to each other as 1. */
const cells = { signed: 512, unsigned: 1024 } as const;

/**
 * For each cell of that scale, the codes below its border and the place of the border within it: for a place u, ⌊guide[⌊u⌋] + (u − ⌊u⌋)⌋ is the code.
 * So one look-up finds the nearest of 256 values.
 */
function guideTable(signed: boolean): Float32Array {
  const table = dynamicTable(signed);
  const size = signed ? cells.signed : cells.unsigned;
  const offset = signed ? size : 0;
  const place = (x: number) => offset + Math.sign(x) * Math.abs(x) ** 0.25 * size;
  const borders = Array.from({ length: 255 }, (_, i) => place((table[i]! + table[i + 1]!) / 2));
  const guide = new Float32Array(offset + size + 1);
  for (let cell = 0, code = 0; cell < guide.length; cell++) {
    const inside = borders[code]! < cell + 1;
    guide[cell] = inside ? code + 1 - (borders[code]! - cell) : code;
    if (inside) code++;
  }
  return guide;
}

/** Lines in which values are looked up side by side, on as many threads; each has the table before it. */
const lines = 32;

/** `table[at]` for int32 `at` [blocks, 256]. ONNX Runtime's GatherElements is several times as fast at single elements as its Gather. */
function lookUp(table: Float32Array, at: Tensor): Tensor {
  const repeated = new Float32Array(lines * table.length);
  for (let i = 0; i < lines; i++) repeated.set(table, i * table.length);
  const tables = currentGraph().constant("float32", [lines, table.length], repeated);
  return reshape(gatherElements(tables, reshape(at, [lines, -1]), 1), at.shape);
}

/** float32 [blocks, 256] → codes uint8 [blocks, 256] and scales float32 [blocks, 1]. */
export function encodeBlocks(x: Tensor, signed: boolean): { codes: Tensor; scale: Tensor } {
  const scale = max(signed ? abs(x) : x, -1, { keepDims: true });
  const relative = mul(x, div(1, maximum(scale, 1e-38)));
  const root = sqrt(sqrt(signed ? abs(relative) : relative));
  const u = signed ? add(mul(root, mul(sign(relative), cells.signed)), cells.signed) : mul(root, cells.unsigned);
  const whole = floor(u);
  const codes = add(lookUp(guideTable(signed), cast(whole, "int32")), sub(u, whole));
  return { codes: cast(codes, "uint8"), scale };
}

/** What {@link encodeBlocks} has encoded. */
export const decodeBlocks = (codes: Tensor, scale: Tensor, signed: boolean): Tensor =>
  mul(lookUp(dynamicTable(signed), cast(codes, "int32")), scale);
