import { InvalidArgumentError } from "commander";
import { EspalierError } from "../graph/index.ts";

/** Parsers of option values: each names what it wants. */
export function integer(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < minimum) throw new InvalidArgumentError(`It must be a whole number of at least ${minimum}.`);
    return value;
  };
}

export function number(minimum: number, maximum = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= minimum && value <= maximum))
      throw new InvalidArgumentError(
        `It must be a number ${maximum === Number.POSITIVE_INFINITY ? `of at least ${minimum}` : `between ${minimum} and ${maximum}`}.`,
      );
    return value;
  };
}

/** `a,b,c` as a list. */
export const list = (text: string): string[] =>
  text
    .split(",")
    .map((s) => s.trim())
    .filter(Boolean);

/** Refuses sequences that the model has no positions for. */
export function checkLength(maxLength: number, { contextLength: context }: { readonly contextLength?: number }, model: string): void {
  if (context !== undefined && maxLength > context)
    throw new EspalierError("bad-option", `--max-length ${maxLength} is longer than the context of ${model}, ${context} tokens.`);
}
