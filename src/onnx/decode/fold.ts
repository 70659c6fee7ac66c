/**
 * Operators on values that are known while tracing. This is what carries symbolic dims through the shape arithmetic of exported graphs, and constants
 * through their folding. A fold returns undefined where it cannot say the result; the operator's rule then computes it in the graph.
 */
import { addDims, type Dim, type DType, divDims, elementCount, isFloat, mulDims, subDims } from "../../graph/index.ts";
import type { NodeContext } from "./context.ts";
import { type Content, content, maxContent, numbersOf, vectorContent } from "./value.ts";

type Fold = (node: NodeContext, inputs: readonly Content[]) => Content | undefined;

const sizeFits = (shape: readonly number[]): boolean => elementCount(shape) <= maxContent;

/** −1, 0 or 1 as a − b is negative, zero or positive for every size of the symbols; undefined where that depends on them. Sizes are never negative. */
export function compareDims(a: Dim, b: Dim): number | undefined {
  if (typeof a === "number" && typeof b === "number") return a < b ? -1 : a > b ? 1 : a === b ? 0 : undefined;
  const difference = subDims(a, b);
  if (typeof difference === "number") return Math.sign(difference);
  const constant = difference.terms.get("") ?? 0;
  const factors = [...difference.terms].filter(([monomial]) => monomial !== "").map(([, k]) => k);
  if (constant > 0 && factors.every((k) => k > 0)) return 1;
  return constant < 0 && factors.every((k) => k < 0) ? -1 : undefined;
}

function broadcast(a: readonly number[], b: readonly number[]): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) {
    const da = a[i - rank + a.length] ?? 1;
    const db = b[i - rank + b.length] ?? 1;
    if (da !== db && da !== 1 && db !== 1) return undefined;
    shape.push(da === 1 ? db : da);
  }
  return shape;
}

/** The content whose element at each index of `shape` is that of `from` at the index `source` says. */
function rearranged(from: Content, shape: readonly number[], source: (index: readonly number[]) => readonly number[]): Content | undefined {
  if (!sizeFits(shape)) return undefined;
  const values: Dim[] = [];
  const index = shape.map(() => 0);
  for (let i = 0; i < elementCount(shape); i++) {
    let at = 0;
    for (const [axis, k] of source(index).entries()) at = at * from.shape[axis]! + k;
    const value = from.values[at];
    if (value === undefined) return undefined;
    values.push(value);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      if (index[axis]! < shape[axis]!) break;
      index[axis] = 0;
    }
  }
  return content(from.dtype, shape, values);
}

/** `from` read as if it had been stretched to `shape`. */
function stretched(from: Content, shape: readonly number[]): Content | undefined {
  const offset = shape.length - from.shape.length;
  return rearranged(from, shape, (index) => from.shape.map((size, axis) => (size === 1 ? 0 : index[axis + offset]!)));
}

function elementwise(f: (a: Dim, b: Dim, dtype: DType) => Dim | undefined, dtype?: DType): Fold {
  return (_node, inputs) =>
    inputs.reduce<Content | undefined>((a, b, i) => {
      if (i === 0 || !a) return i === 0 ? b : undefined;
      const shape = broadcast(a.shape, b.shape);
      const [x, y] = shape ? [stretched(a, shape), stretched(b, shape)] : [];
      if (!shape || !x || !y) return undefined;
      const values = x.values.map((v, k) => f(v, y.values[k]!, a.dtype));
      return values.includes(undefined) ? undefined : content(dtype ?? a.dtype, shape, values as Dim[]);
    }, undefined);
}

const bothNumbers = (f: (a: number, b: number) => number) => (a: Dim, b: Dim) =>
  typeof a === "number" && typeof b === "number" ? f(a, b) : undefined;

function unary(f: (v: number) => number, dtype?: DType): Fold {
  return (_node, [x]) => {
    const values = numbersOf(x);
    return x && values && content(dtype ?? x.dtype, x.shape, values.map(f));
  };
}

const comparison = (holds: (order: number) => boolean): Fold =>
  elementwise((a, b) => {
    const order = compareDims(a, b);
    return order === undefined ? undefined : Number(holds(order));
  }, "bool");

/** Of two dims the larger or smaller one. */
const extreme = (sign: 1 | -1): Fold =>
  elementwise((a, b) => {
    const order = compareDims(a, b);
    return order === undefined ? undefined : order * sign >= 0 ? a : b;
  });

const divide = (a: Dim, b: Dim, dtype: DType): Dim | undefined => {
  if (isFloat(dtype)) return (a as number) / (b as number);
  if (typeof a === "number" && typeof b === "number") return b === 0 ? undefined : Math.trunc(a / b);
  return divDims(a, b);
};

function reduction(f: (values: readonly Dim[]) => Dim | undefined): Fold {
  return (node, [x]) => {
    const axes = (node.axes(1) ?? x!.shape.map((_, i) => i)).map((a) => node.axis(a, x!.shape.length));
    // Over all axes, as shapes are reduced.
    if (axes.length !== x!.shape.length) return undefined;
    const value = f(x!.values);
    return value === undefined ? undefined : content(x!.dtype, node.int("keepdims", 1) ? x!.shape.map(() => 1) : [], [value]);
  };
}

const reshaped = (x: Content, shape: readonly number[]): Content | undefined =>
  elementCount(shape) === x.values.length ? content(x.dtype, shape, x.values) : undefined;

/** Start and number of the elements of a slice along an axis of `size`. */
function sliceRange(size: number, start: number, end: number, step: number): { first: number; count: number } {
  const clamp = (v: number, low: number, high: number) => Math.min(Math.max(v < 0 ? v + size : v, low), high);
  const first = step > 0 ? clamp(start, 0, size) : clamp(start, 0, size - 1);
  const last = step > 0 ? clamp(end, 0, size) : clamp(end, -1, size - 1);
  return { first, count: Math.max(0, Math.ceil((last - first) / step)) };
}

const foldSlice: Fold = (node, [x, starts, ends, axes, steps]) => {
  const list = (c: Content | undefined, name: string) => (c ? numbersOf(c) : node.ints(name));
  const [from, to] = [list(starts, "starts"), list(ends, "ends")];
  if (!from || !to || from.length !== to.length) return undefined;
  const along = list(axes, "axes") ?? from.map((_, i) => i);
  const by = list(steps, "steps") ?? from.map(() => 1);
  const shape = [...x!.shape];
  const first = shape.map(() => 0);
  const stride = shape.map(() => 1);
  for (const [i, a] of along.entries()) {
    const axis = node.axis(a, shape.length);
    if (!by[i]) return undefined;
    const range = sliceRange(shape[axis]!, from[i]!, to[i]!, by[i]!);
    [first[axis], stride[axis], shape[axis]] = [range.first, by[i]!, range.count];
  }
  return rearranged(x!, shape, (index) => index.map((k, axis) => first[axis]! + k * stride[axis]!));
};

const foldGather: Fold = (node, [x, indices]) => {
  const rows = numbersOf(indices);
  if (!rows || x!.shape.length === 0) return undefined;
  const axis = node.axis(node.int("axis", 0), x!.shape.length);
  const inner = indices!.shape.length;
  const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)];
  return rearranged(x!, shape, (index) => {
    const flat = indices!.shape.reduce((at, size, i) => at * size + index[axis + i]!, 0);
    const row = rows[flat]!;
    return [...index.slice(0, axis), row < 0 ? row + x!.shape[axis]! : row, ...index.slice(axis + inner)];
  });
};

const foldConcat: Fold = (node, parts) => {
  const [first] = parts;
  if (!first || first.shape.length === 0 || parts.some((p) => p.shape.length !== first.shape.length)) return undefined;
  const axis = node.axis(node.int("axis", 0), first.shape.length);
  // Shapes are vectors; matrices are rare enough to be left to the graph.
  if (first.shape.length !== 1 || axis !== 0) return undefined;
  const values = parts.flatMap((p) => p.values);
  return content(first.dtype, [values.length], values);
};

/** The shape that Reshape's second input asks for, or undefined where the inferred size cannot be told. */
const foldReshape: Fold = (node, [x, shape]) => {
  const wanted = numbersOf(shape);
  if (!wanted) return undefined;
  const zeros = node.int("allowzero", 0) === 0;
  const full = wanted.map((d, i) => (d === 0 && zeros ? (x!.shape[i] ?? 0) : d));
  const rest = full.filter((d) => d !== -1).reduce((n, d) => n * d, 1);
  return reshaped(
    x!,
    full.map((d) => (d === -1 ? x!.values.length / rest : d)),
  );
};

const foldUnsqueeze: Fold = (node, [x]) => {
  const axes = node.axes(1);
  if (!axes) return undefined;
  const rank = x!.shape.length + axes.length;
  const at = new Set(axes.map((a) => node.axis(a, rank)));
  const rest = [...x!.shape];
  return reshaped(
    x!,
    Array.from({ length: rank }, (_, i) => (at.has(i) ? 1 : (rest.shift() ?? 1))),
  );
};

const foldSqueeze: Fold = (node, [x]) => {
  const axes = node.axes(1)?.map((a) => node.axis(a, x!.shape.length));
  return reshaped(
    x!,
    x!.shape.filter((size, i) => (axes ? !axes.includes(i) : size !== 1)),
  );
};

const foldCast: Fold = (node, [x]) => {
  const to = node.dtype("to");
  if (!isFloat(to) && to !== "bool") {
    if (!isFloat(x!.dtype)) return { ...x!, dtype: to };
    const values = numbersOf(x);
    return values?.every(Number.isFinite) ? content(to, x!.shape, values.map(Math.trunc)) : undefined;
  }
  const values = numbersOf(x);
  return (
    values &&
    content(
      to,
      x!.shape,
      values.map((v) => (to === "bool" ? Number(v !== 0) : v)),
    )
  );
};

const foldWhere: Fold = (_node, [condition, a, b]) => {
  const values = broadcast(a!.shape, b!.shape);
  const shape = values && broadcast(condition!.shape, values);
  if (!shape) return undefined;
  const [c, x, y] = [stretched(condition!, shape), stretched(a!, shape), stretched(b!, shape)];
  return c && x && y
    ? content(
        a!.dtype,
        shape,
        c.values.map((v, i) => (v ? x : y).values[i]!),
      )
    : undefined;
};

const foldRange: Fold = (_node, inputs) => {
  const [start, limit, delta] = inputs.map((c) => numbersOf(c)?.[0]);
  if (start === undefined || limit === undefined || !delta) return undefined;
  const count = Math.max(0, Math.ceil((limit - start) / delta));
  return count <= maxContent
    ? content(
        inputs[0]!.dtype,
        [count],
        Array.from({ length: count }, (_, i) => start + i * delta),
      )
    : undefined;
};

const foldConstantOfShape: Fold = (node, [shape]) => {
  const sizes = numbersOf(shape);
  const value = node.constant("value")?.content ?? content("float32", [1], [0]);
  return sizes?.every((d) => d >= 0) && sizeFits(sizes)
    ? content(value.dtype, sizes, Array<Dim>(elementCount(sizes)).fill(value.values[0] ?? 0))
    : undefined;
};

const foldExpand: Fold = (_node, [x, shape]) => {
  const sizes = numbersOf(shape);
  const full = sizes && broadcast(x!.shape, sizes);
  return full && stretched(x!, full);
};

const foldTranspose: Fold = (node, [x]) => {
  const order = node.ints("perm") ?? x!.shape.map((_, i) => x!.shape.length - 1 - i);
  return rearranged(
    x!,
    order.map((axis) => x!.shape[axis] ?? 0),
    (index) => x!.shape.map((_, axis) => index[order.indexOf(axis)]!),
  );
};

const foldNonZero: Fold = (_node, [x]) => {
  const values = numbersOf(x);
  // Of a vector, as exporters write "all indices": NonZero(ConstantOfShape(n)).
  if (!values || x!.shape.length !== 1) return undefined;
  const at = values.flatMap((v, i) => (v === 0 ? [] : [i]));
  return content("int64", [1, at.length], at);
};

const folds: Readonly<Record<string, Fold>> = {
  Add: elementwise((a, b, dtype) => (isFloat(dtype) ? (a as number) + (b as number) : addDims(a, b))),
  Sub: elementwise((a, b, dtype) => (isFloat(dtype) ? (a as number) - (b as number) : subDims(a, b))),
  Mul: elementwise((a, b, dtype) => (isFloat(dtype) ? (a as number) * (b as number) : mulDims(a, b))),
  Div: elementwise(divide),
  Mod: elementwise(bothNumbers((a, b) => (b === 0 ? Number.NaN : a - Math.floor(a / b) * b))),
  Pow: elementwise(bothNumbers((a, b) => a ** b)),
  Max: extreme(1),
  Min: extreme(-1),
  Equal: comparison((order) => order === 0),
  Less: comparison((order) => order < 0),
  Greater: comparison((order) => order > 0),
  LessOrEqual: comparison((order) => order <= 0),
  GreaterOrEqual: comparison((order) => order >= 0),
  And: elementwise(bothNumbers((a, b) => Number(a && b ? 1 : 0))),
  Or: elementwise(bothNumbers((a, b) => Number(a || b ? 1 : 0))),
  Xor: elementwise(bothNumbers((a, b) => Number(Boolean(a) !== Boolean(b)))),
  Not: unary((v) => (v ? 0 : 1)),
  Neg: (_node, [x]) => ({ ...x!, values: x!.values.map((v) => mulDims(v, -1)) }),
  Abs: unary(Math.abs),
  Sqrt: unary(Math.sqrt),
  Reciprocal: unary((v) => 1 / v),
  Floor: unary(Math.floor),
  Ceil: unary(Math.ceil),
  Identity: (_node, [x]) => x,
  Cast: foldCast,
  Where: foldWhere,
  Gather: foldGather,
  Slice: foldSlice,
  Concat: foldConcat,
  Reshape: foldReshape,
  Unsqueeze: foldUnsqueeze,
  Squeeze: foldSqueeze,
  Flatten: (node, [x]) => (x!.shape.length === 1 && node.int("axis", 1) === 0 ? reshaped(x!, [1, x!.shape[0]!]) : undefined),
  Transpose: foldTranspose,
  Expand: foldExpand,
  Range: foldRange,
  ConstantOfShape: foldConstantOfShape,
  NonZero: foldNonZero,
  Size: (_node, [x]) => content("int64", [], [x!.values.length]),
  ReduceProd: reduction((values) => values.reduce(mulDims, 1)),
  ReduceSum: reduction((values) => values.reduce(addDims, 0)),
  ReduceMax: reduction((values) => numbersOf(vectorContent(values))?.reduce((a, b) => Math.max(a, b))),
  ReduceMin: reduction((values) => numbersOf(vectorContent(values))?.reduce((a, b) => Math.min(a, b))),
};

/** What the node computes, where all of its inputs are known and that is enough to tell. */
export function fold(node: NodeContext): Content | undefined {
  if (node.node.domain !== "" || node.inputs.length === 0) return undefined;
  const rule = folds[node.node.opType];
  if (!rule) return undefined;
  const inputs = node.inputs.map((value) => value?.content);
  if (node.inputs.some((value, i) => value && !inputs[i])) return undefined;
  const result = rule(node, inputs as readonly Content[]);
  // Floats are numbers, and integers whole ones: what else a rule makes of values that the operator does not allow is the graph's affair.
  const isValue = (v: Dim) => (isFloat(result!.dtype) ? typeof v === "number" : typeof v !== "number" || Number.isInteger(v));
  return result?.values.every(isValue) ? result : undefined;
}
