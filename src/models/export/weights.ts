/** The weights of a graph as an export stores them: in 32, 16 or 8 bits, or fed by the caller. */
import { readStorage, streamFloats } from "../../checkpoints/index.ts";
import {
  currentGraph,
  EspalierError,
  type Node,
  reachable,
  read,
  type Shape,
  type Storage,
  type Tensor,
  type Traced,
  Variable,
  variableOp,
} from "../../graph/index.ts";
import { Linear, type LinearLayout, QuantizedLinear, rowQuantizer, streamRows, zeros } from "../../nn/index.ts";
import { int8Lookup, int8TableProduct, lookupOf, matmul, mul, productOf, rewrite } from "../../ops/index.ts";

/**
 * How an export stores the weights of products and lookups; the few others stay in 32 bits. `f16` ones are widened before they are computed with.
 * `int8` ones have a scale per output, and each row that they are multiplied with is rounded to 8 bits, too.
 */
export const exportDtypes = ["f32", "f16", "int8"] as const;
export type ExportDtype = (typeof exportDtypes)[number];

/** What a graph does with a weight matrix. */
interface Uses {
  /** x·W, as GPT-2's layers do. */
  straight: boolean;
  /** x·Wᵀ. */
  transposed: boolean;
  lookup: boolean;
  other: boolean;
}

const variableOf = (t: Tensor | undefined): Variable | undefined =>
  t?.node.op === variableOp ? (t.node.attrs.variable as Variable) : undefined;

function usesOf({ outputs }: Traced): Map<Variable, Uses> {
  const uses = new Map<Variable, Uses>();
  const note = (t: Tensor | undefined, use: keyof Uses) => {
    const variable = variableOf(t);
    if (!variable) return;
    const known = uses.get(variable) ?? { straight: false, transposed: false, lookup: false, other: false };
    known[use] = true;
    uses.set(variable, known);
  };
  for (const n of reachable(Object.values(outputs))) {
    const product = n.inputs.a !== n.inputs.b ? productOf(n) : undefined;
    const lookup = lookupOf(n);
    for (const t of Object.values(n.inputs)) {
      if (t && t === product?.weight && t.rank === 2) note(t, product.transposed ? "transposed" : "straight");
      else if (t && t === lookup?.table && t.rank === 2) note(t, "lookup");
      else note(t, "other");
    }
  }
  return uses;
}

/**
 * Rewrites a graph so that its weights lie as an export wants them. Those that are only multiplied with lie as ONNX's MatMul takes them, [in, out];
 * a table that is the output head as well stays one tensor.
 *
 * @param inputOf the shape of the input that a variable becomes, under the variable's name; undefined for one that is stored
 */
export function withStoredWeights(traced: Traced, dtype: ExportDtype, inputOf: (variable: Variable) => Shape | undefined): Traced {
  const uses = usesOf(traced);
  const cache = new Map<Variable, unknown>();
  /** One stored form per variable, whatever number of nodes reads it. */
  const once = <T>(variable: Variable, make: () => T): T => {
    if (!cache.has(variable)) cache.set(variable, make());
    return cache.get(variable) as T;
  };
  const storedWeight = (t: Tensor | undefined) => {
    const variable = t?.rank === 2 && t.dtype === "float32" ? variableOf(t) : undefined;
    return variable && !inputOf(variable) ? { variable, uses: uses.get(variable)! } : undefined;
  };
  const product = (n: Node, x: Tensor): Tensor | undefined => {
    const { weight, transposed, alpha } = productOf(n)!;
    const stored = storedWeight(weight);
    if (!stored || stored.uses.other) return undefined;
    const { variable } = stored;
    const scaled = (y: Tensor) => (alpha === 1 ? y : mul(y, alpha));
    if (stored.uses.lookup || (stored.uses.straight && stored.uses.transposed)) {
      if (dtype !== "int8" || stored.uses.straight) return undefined;
      const { table, scale } = once(variable, () => int8Table(variable));
      return scaled(int8TableProduct(x, read(table), read(scale)));
    }
    if (dtype === "int8") return scaled(once(variable, () => int8Layer(variable, transposed ? "out-in" : "in-out")).forward(x));
    return transposed
      ? matmul(x, read(once(variable, () => narrowed(variable, dtype, transposedStorage(variable.storage)))), { alpha })
      : undefined;
  };
  const lookup = (n: Node, ids: Tensor): Tensor | undefined => {
    const stored = storedWeight(lookupOf(n)!.table);
    if (dtype !== "int8" || !stored || stored.uses.straight || stored.uses.other) return undefined;
    const { table, scale } = once(stored.variable, () => int8Table(stored.variable));
    return int8Lookup(ids, read(table), read(scale));
  };
  return rewrite(traced, {
    variable(variable) {
      const shape = inputOf(variable);
      if (shape) return currentGraph().input(variable.name, variable.dtype, shape);
      const { straight, lookup, other } = uses.get(variable) ?? { other: true };
      // What is multiplied with its transpose alone is stored transposed, by `node`.
      return dtype === "f16" && !other && (straight || lookup) ? read(once(variable, () => narrowed(variable, dtype))) : undefined;
    },
    node(n, operands) {
      const y = productOf(n) ? product(n, operands.a!) : lookupOf(n) ? lookup(n, operands.indices!) : undefined;
      return y && [y];
    },
  });
}

/** The weight as a constant of its own, in 16 bits where those are asked for. */
function narrowed(variable: Variable, dtype: ExportDtype, storage: Storage = variable.storage): Variable {
  const { name } = variable;
  const { shape } = storage;
  if (dtype !== "f16") return new Variable(name, { dtype: variable.dtype, shape }, storage, { frozen: true });
  const load = () => withinFloat16(readStorage(storage, "float32") as Float32Array, name);
  const constant = new Variable(name, { dtype: "float32", shape }, { kind: "lazy", dtype: "float32", shape, load }, { frozen: true });
  constant.constantDtype = "float16";
  return constant;
}

/** The first magnitude that float16 rounds to infinity. */
const beyondFloat16 = 65520;

function withinFloat16(values: Float32Array, name: string): Float32Array {
  for (const v of values)
    if (Math.abs(v) >= beyondFloat16)
      throw new EspalierError("float16-range", `The weight "${name}" holds ${v}; float16 ends at 65504. Export this model as f32 or int8.`);
  return values;
}

function int8Layer({ name, shape, storage }: Variable, layout: LinearLayout): QuantizedLinear {
  const [inFeatures, outFeatures] = (layout === "in-out" ? shape : [...shape].reverse()) as [number, number];
  const linear = new Linear(inFeatures, outFeatures, { init: zeros, layout });
  linear.weight.name = name;
  linear.weight.storage = storage;
  return new QuantizedLinear(linear, "int8", streamFloats);
}

/** A table in rows of 8 bits, with a scale for each. */
function int8Table({ name, shape, storage }: Variable): { table: Variable; scale: Variable } {
  const [rows, width] = shape as [number, number];
  const quantized = { table: new Int8Array(rows * width), scale: new Float32Array(rows) };
  let row = 0;
  streamRows(storage, streamFloats, width, (values) => {
    const quantizer = rowQuantizer("int8", width, 1);
    quantizer.add(values);
    quantized.table.set(quantizer.values as Int8Array, row * width);
    quantized.scale[row++] = quantizer.scale[0]!;
  });
  const constant = (of: string, type: { dtype: "int8" | "float32"; shape: number[] }, data: Int8Array | Float32Array) =>
    new Variable(of, type, { kind: "memory", ...type, data }, { frozen: true });
  return {
    table: constant(name, { dtype: "int8", shape: [rows, width] }, quantized.table),
    scale: constant(`${name}.scale`, { dtype: "float32", shape: [rows] }, quantized.scale),
  };
}

/** [a, b] → [b, a] as float32, computed when it is written. */
function transposedStorage(storage: Storage): Storage {
  const [rows, columns] = storage.shape as [number, number];
  const load = () => {
    const values = readStorage(storage, "float32") as Float32Array;
    const transposed = new Float32Array(values.length);
    // Blocks of both matrices stay in the cache.
    const block = 64;
    for (let top = 0; top < rows; top += block)
      for (let left = 0; left < columns; left += block)
        for (let r = top; r < Math.min(top + block, rows); r++)
          for (let c = left; c < Math.min(left + block, columns); c++) transposed[c * rows + r] = values[r * columns + c]!;
    return transposed;
  };
  return { kind: "lazy", dtype: "float32", shape: [columns, rows], load };
}
