import { z } from "zod";
import type { Random } from "../../graph/index.ts";
import { type Dimension, type Space, sample, type Values, within } from "../../train/search/space.ts";

export const exploreSchema = z.discriminatedUnion("rule", [
  z.strictObject({
    rule: z.literal("perturb"),
    factors: z.array(z.number().gt(0)).min(1).default([1.2, 0.8]),
    resampleProbability: z.number().min(0).max(1).default(0.25),
  }),
  z.strictObject({ rule: z.literal("noise"), deviation: z.number().gt(0).default(0.1) }),
]);

/** How copied values change. */
export type Explore = z.output<typeof exploreSchema>;

/**
 * Each value by itself is drawn anew from its dimension, with `resampleProbability`, or multiplied by one of the factors. Whole numbers change by at
 * least one; of a choice the value before (a factor below 1) or after is taken, so its values should be in an order. A value of 0 leaves 0 only by
 * being drawn anew.
 */
export const perturb = ({
  factors = [1.2, 0.8],
  resampleProbability = 0.25,
}: {
  factors?: readonly number[];
  resampleProbability?: number;
} = {}): Explore => ({ rule: "perturb", factors: [...factors], resampleProbability });

/** Each value moves by a normal number, whose standard deviation is `deviation` of its dimension's width; of logarithmic ranges, the width is that of the logarithm. */
export const noise = (deviation = 0.1): Explore => ({ rule: "noise", deviation });

/** What the values become. They stay within their dimensions; entries that the space does not name stay as they are. */
export const explored = (rule: Explore, values: Values, space: Space, random: Random): Values => ({
  ...values,
  ...Object.fromEntries(
    Object.entries(space).map(([name, dimension]) => {
      if (rule.rule === "noise") return [name, noisy(dimension, values[name], rule.deviation * random.normal())];
      if (random.uniform() < rule.resampleProbability) return [name, sample({ [name]: dimension }, random)[name]];
      return [name, scaled(dimension, values[name], rule.factors[random.integer(rule.factors.length)]!)];
    }),
  ),
});

function scaled(dimension: Dimension, value: unknown, factor: number): unknown {
  const direction = Math.sign(factor - 1);
  if (dimension.kind === "choice") return neighbour(dimension.values, value, direction);
  const old = value as number;
  if (!dimension.whole) return within(dimension, old * factor);
  const product = Math.round(old * factor);
  return within(dimension, product === old ? old + direction : product);
}

function noisy(dimension: Dimension, value: unknown, shift: number): unknown {
  if (dimension.kind === "choice") return neighbour(dimension.values, value, Math.round(shift * (dimension.values.length - 1)));
  const { from, to, scale } = dimension;
  const old = value as number;
  return within(dimension, scale === "log" ? old * (to / from) ** shift : old + shift * (to - from));
}

/** `by` places further in a list, as far as it goes. */
function neighbour(values: readonly unknown[], value: unknown, by: number): unknown {
  const place = values.indexOf(value) + by;
  return values[Math.min(values.length - 1, Math.max(0, place))];
}
