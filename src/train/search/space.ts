import { EspalierError, Random, show } from "../../graph/index.ts";

/** What one option of a search may be. */
export type Dimension =
  | { readonly kind: "choice"; readonly values: readonly unknown[] }
  | {
      readonly kind: "range";
      readonly from: number;
      readonly to: number;
      /** Of rates, equal factors are equally likely: 1e-4 … 1e-3 as 1e-3 … 1e-2. */
      readonly scale: "linear" | "log";
      /** Whole numbers only. */
      readonly whole: boolean;
    };

/** Options by name, and what each may be. */
export type Space = Readonly<Record<string, Dimension>>;

/** One point of a space. */
export type Values = Readonly<Record<string, unknown>>;

/** One of these. */
export const choice = (...values: readonly unknown[]): Dimension => {
  if (values.length === 0) throw new EspalierError("bad-space", "A choice needs at least one value.");
  return { kind: "choice", values };
};

/** Any number from `from` to `to`. */
export const uniform = (from: number, to: number): Dimension => range(from, to, "linear", false);

/** Any number from `from` to `to`, both above 0, each factor as likely as another: for learning rates. */
export const logUniform = (from: number, to: number): Dimension => range(from, to, "log", false);

/** A whole number from `from` to `to`, both included. */
export const wholeNumber = (from: number, to: number): Dimension => range(from, to, "linear", true);

function range(from: number, to: number, scale: "linear" | "log", whole: boolean): Dimension {
  if (!(Number.isFinite(from) && Number.isFinite(to) && from < to))
    throw new EspalierError("bad-space", `A range goes from a number to a larger one, not from ${show(from)} to ${show(to)}.`);
  if (scale === "log" && !(from > 0)) throw new EspalierError("bad-space", `A logarithmic range begins above 0, not at ${show(from)}.`);
  if (whole && !(Number.isInteger(from) && Number.isInteger(to)))
    throw new EspalierError("bad-space", `A range of whole numbers has whole ends, not ${show(from)} and ${show(to)}.`);
  return { kind: "range", from, to, scale, whole };
}

/** The value at `at` (0 to 1) of the way through a dimension. */
function valueAt(dimension: Dimension, at: number): unknown {
  if (dimension.kind === "choice") return dimension.values[Math.min(dimension.values.length - 1, Math.floor(at * dimension.values.length))];
  const { from, to, scale, whole } = dimension;
  // Each whole number has the same share.
  if (whole) return Math.min(to, from + Math.floor(at * (to - from + 1)));
  return within(dimension, scale === "log" ? from * (to / from) ** at : from + (to - from) * at);
}

/** A value of each dimension, drawn independently. */
export const sample = (space: Space, random: Random): Values =>
  Object.fromEntries(Object.entries(space).map(([name, dimension]) => [name, valueAt(dimension, random.uniform())]));

/**
 * So many settings, each drawn by {@link sample}: a function of the seed. Where there are finitely many none comes twice, so no more come than there are.
 */
export function draw(space: Space, count: number, seed: number): Values[] {
  const all = Object.values(space).reduce((n, dimension) => n * sizeOf(dimension), 1);
  const found = new Map<string, Values>();
  for (let i = 0; found.size < Math.min(count, all); i++) {
    const values = sample(space, new Random(seed, i));
    const key = all === Number.POSITIVE_INFINITY ? String(i) : JSON.stringify(values);
    if (!found.has(key)) found.set(key, values);
  }
  return [...found.values()];
}

/** How many values there are to draw. */
function sizeOf(dimension: Dimension): number {
  if (dimension.kind === "choice") return new Set(dimension.values.map((value) => JSON.stringify(value))).size;
  return dimension.whole ? dimension.to - dimension.from + 1 : Number.POSITIVE_INFINITY;
}

/** Every combination; of a range `points` values, its ends among them. The last option changes first. */
export function grid(space: Space, points = 3): Values[] {
  return Object.entries(space).reduce<Values[]>(
    (combinations, [name, dimension]) =>
      combinations.flatMap((values) => gridOf(dimension, points).map((value) => ({ ...values, [name]: value }))),
    [{}],
  );
}

function gridOf(dimension: Dimension, points: number): readonly unknown[] {
  if (dimension.kind === "choice") return dimension.values;
  const { from, to, scale, whole } = dimension;
  const count = whole ? Math.min(points, to - from + 1) : points;
  if (count < 2) return [from];
  const values = Array.from({ length: count }, (_, i) => {
    const at = i / (count - 1);
    const value = scale === "log" ? from * (to / from) ** at : from + (to - from) * at;
    return whole ? Math.round(value) : within(dimension, value);
  });
  return [...new Set(values)];
}

/** The nearest value of a range: arithmetic may end a hair outside. */
export const within = ({ from, to, whole }: Extract<Dimension, { kind: "range" }>, value: number): number =>
  Math.min(to, Math.max(from, whole ? Math.round(value) : value));

/** `a,b,c`, `from..to`, `log:from..to` or `whole:from..to`, as a command's option says it. */
export function parseDimension(text: string): Dimension {
  const [, form, from, to] = /^(log:|whole:)?([^,]+?)\.\.([^,]+)$/.exec(text.trim()) ?? [];
  if (from !== undefined) return range(Number(from), Number(to), form === "log:" ? "log" : "linear", form === "whole:");
  return choice(...text.split(",").map((value) => parsed(value.trim())));
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
