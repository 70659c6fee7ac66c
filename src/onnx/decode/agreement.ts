import { addDims, type Dim, mulDims, type Shape, SymbolicDim } from "../../graph/index.ts";

/**
 * Thrown where a graph can only run when a named dimension has a certain size: a file may call the length of a mask "total" though it is the sum of
 * two other lengths. Whoever traces over symbols gives the dimension that size and starts again.
 */
export class Agreement extends Error {
  readonly symbol: string;
  readonly size: Dim;

  constructor(symbol: string, size: Dim) {
    super(`"${symbol}" must be ${size}`);
    this.symbol = symbol;
    this.size = size;
  }
}

/** The name of a dimension that is nothing but a name. */
function nameOf(d: Dim): string | undefined {
  if (typeof d === "number" || d.terms.size !== 1) return undefined;
  const [[monomial, factor]] = [...d.terms] as [[string, number]];
  return factor === 1 && monomial !== "" && !monomial.includes("*") ? monomial : undefined;
}

/** Asks two sizes to be equal; where one is a mere name, it gets the other's size. What cannot be settled so is left to the operator's own check. */
export function agree(a: Dim, b: Dim): void {
  if (typeof a === "number" && typeof b === "number") return;
  if (String(a) === String(b)) return;
  const [nameA, nameB] = [nameOf(a), nameOf(b)];
  const within = (name: string, d: Dim) => d instanceof SymbolicDim && d.symbols.includes(name);
  if (nameB !== undefined && !within(nameB, a)) throw new Agreement(nameB, a);
  if (nameA !== undefined && !within(nameA, b)) throw new Agreement(nameA, b);
}

/** {@link agree} along every axis on which two shapes must broadcast. */
export function agreeToBroadcast(a: Shape, b: Shape): void {
  for (let i = 1; i <= Math.min(a.length, b.length); i++) {
    const [da, db] = [a.at(-i)!, b.at(-i)!];
    if (da !== 1 && db !== 1) agree(da, db);
  }
}

/** `d` with named dimensions replaced. */
export function substitute(d: Dim, sizes: ReadonlyMap<string, Dim>): Dim {
  if (typeof d === "number") return d;
  let total: Dim = 0;
  for (const [monomial, k] of d.terms) {
    const factors = monomial === "" ? [] : monomial.split("*");
    const term = factors.reduce<Dim>((product, s) => mulDims(product, sizes.get(s) ?? new SymbolicDim(new Map([[s, 1]]))), k);
    total = addDims(total, term);
  }
  return total;
}
