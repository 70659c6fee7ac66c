import { EspalierError } from "./errors.ts";

/**
 * A dimension: a number while training, or an integer polynomial over named symbols (`batch`, `past + time`) when a graph
 * must serve several sizes. Model code never asks which of the two it holds; it uses the helpers of this file.
 */
export type Dim = number | SymbolicDim;
export type Shape = readonly Dim[];

/** An integer polynomial in canonical form: monomial (symbols joined by `*`, `""` for the constant) → coefficient. */
export class SymbolicDim {
  readonly terms: ReadonlyMap<string, number>;

  constructor(terms: ReadonlyMap<string, number>) {
    this.terms = terms;
  }

  /** The symbols that occur in the polynomial. */
  get symbols(): string[] {
    return [...new Set([...this.terms.keys()].flatMap((monomial) => (monomial === "" ? [] : monomial.split("*"))))];
  }

  toString(): string {
    const parts = [...this.terms].sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1));
    return parts.map(([monomial, k]) => (monomial === "" ? `${k}` : k === 1 ? monomial : `${k}*${monomial}`)).join(" + ");
  }
}

/** A named dimension, e.g. `symbol("batch")`. */
export function symbol(name: string): SymbolicDim {
  if (!/^[A-Za-z_]\w*$/.test(name))
    throw new EspalierError("bad-symbol", `A dimension's name must be an identifier, not ${JSON.stringify(name)}.`);
  return new SymbolicDim(new Map([[name, 1]]));
}

const polynomial = (d: Dim): ReadonlyMap<string, number> => (typeof d === "number" ? new Map([["", d]]) : d.terms);

function canonical(terms: Map<string, number>): Dim {
  for (const [monomial, k] of terms) if (k === 0) terms.delete(monomial);
  if (terms.size === 0) return 0;
  if (terms.size === 1 && terms.has("")) return terms.get("")!;
  return new SymbolicDim(terms);
}

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a + b;
  const sum = new Map(polynomial(a));
  for (const [monomial, k] of polynomial(b)) sum.set(monomial, (sum.get(monomial) ?? 0) + k);
  return canonical(sum);
}

export const subDims = (a: Dim, b: Dim): Dim => addDims(a, mulDims(b, -1));

export function mulDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a * b;
  const product = new Map<string, number>();
  for (const [ma, ka] of polynomial(a)) {
    for (const [mb, kb] of polynomial(b)) {
      const monomial = [...ma.split("*"), ...mb.split("*")].filter(Boolean).sort().join("*");
      product.set(monomial, (product.get(monomial) ?? 0) + ka * kb);
    }
  }
  return canonical(product);
}

/** `a / b` when the division leaves no remainder for every value of the symbols, else undefined. */
export function divDims(a: Dim, b: Dim): Dim | undefined {
  if (typeof a === "number" && typeof b === "number") return b !== 0 && a % b === 0 ? a / b : undefined;
  if (b === 0) return undefined;
  // Long division of polynomials: the leading terms determine the next term of the quotient.
  const [lead, factor] = leadingTerm(b);
  let [quotient, rest]: [Dim, Dim] = [0, a];
  while (rest !== 0) {
    const [monomial, k] = leadingTerm(rest);
    const left = monomial.split("*").filter(Boolean);
    for (const s of lead.split("*").filter(Boolean)) {
      const at = left.indexOf(s);
      if (at < 0) return undefined;
      left.splice(at, 1);
    }
    if (k % factor !== 0) return undefined;
    const term = canonical(new Map([[left.join("*"), k / factor]]));
    quotient = addDims(quotient, term);
    rest = subDims(rest, mulDims(term, b));
  }
  return quotient;
}

/** The term of highest degree; of equals the first in the symbols' alphabet. */
function leadingTerm(d: Dim): [monomial: string, coefficient: number] {
  const degree = (monomial: string) => (monomial === "" ? 0 : monomial.split("*").length);
  const before = (a: string, b: string) => degree(a) > degree(b) || (degree(a) === degree(b) && a < b);
  return [...polynomial(d)].reduce((best, term) => (before(term[0], best[0]) ? term : best));
}

export function dimsEqual(a: Dim, b: Dim): boolean {
  if (typeof a === "number" || typeof b === "number") return a === b;
  return a.terms.size === b.terms.size && [...a.terms].every(([monomial, k]) => b.terms.get(monomial) === k);
}

export const shapesEqual = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => dimsEqual(d, b[i]!));

/** The number that a dimension is for these sizes of its symbols; undefined where one has none. */
export function evaluateDim(d: Dim, sizes: ReadonlyMap<string, number>): number | undefined {
  if (typeof d === "number") return d;
  let total = 0;
  for (const [monomial, k] of d.terms) {
    let term = k;
    for (const s of monomial === "" ? [] : monomial.split("*")) {
      const size = sizes.get(s);
      if (size === undefined) return undefined;
      term *= size;
    }
    total += term;
  }
  return total;
}

/** The number of elements of a shape. */
export const sizeOf = (shape: Shape): Dim => shape.reduce<Dim>(mulDims, 1);

/** The number of elements of a shape that holds numbers only. */
export const elementCount = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

export const formatShape = (shape: Shape): string => `[${shape.map(String).join(",")}]`;

/** The shape as numbers; throws where a symbol is left, naming what needed the numbers. */
export function concrete(shape: Shape, purpose: string): number[] {
  return shape.map((d) => {
    if (typeof d !== "number") throw new EspalierError("symbolic-shape", `${purpose} needs a shape of numbers, got ${formatShape(shape)}.`);
    return d;
  });
}
