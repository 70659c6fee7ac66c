import { InvalidArgumentError } from "commander";
import type { z } from "zod";
import { EspalierError } from "../graph/index.ts";
import { between, whole } from "./config/run-option.ts";

/** Parsers of option values: each names what it wants, as the options of a run do. */
const parser =
  (schema: z.ZodType<number>) =>
  (text: string): number => {
    const parsed = schema.safeParse(text.trim() === "" ? Number.NaN : Number(text));
    if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues[0]!.message);
    return parsed.data;
  };

export const integer = (minimum: number): ((text: string) => number) => parser(whole(minimum));

export const number = (minimum: number, maximum?: number): ((text: string) => number) => parser(between(minimum, maximum));

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
