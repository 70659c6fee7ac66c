/** What the families share in reading `config.json`. */
import { z } from "zod";
import { EspalierError, fewProblems, show } from "../graph/index.ts";

/**
 * Sizes and numbers of layers. A model is built before its tensors are compared with the checkpoint's, so a file must not be able to ask for one that
 * fills the memory. The largest vocabularies and contexts have some millions of entries, the deepest networks a thousand layers.
 */
export const size = z
  .int()
  .positive()
  .max(2 ** 24);
export const layerCount = z.int().positive().max(1024);

/** @throws EspalierError `bad-config`, naming each wrong field */
export function parseConfig<S extends z.ZodType>(schema: S, json: unknown, file: string): z.output<S> {
  const raw = json as Record<string, unknown>;
  const parsed = schema.safeParse(raw);
  if (!parsed.success) throw badConfig(file, parsed.error.issues.map(describeIssue(raw)));
  return parsed.data;
}

const describeIssue =
  (raw: Record<string, unknown>) =>
  (issue: z.core.$ZodIssue): string => {
    const key = issue.path.join(".");
    const value = raw[String(issue.path[0])];
    if (value === undefined) return `"${key}" is missing`;
    return `"${key}" is ${show(value)}: ${issue.message}`;
  };

/** @throws EspalierError `bad-config` where the heads do not divide what they must */
export function checkHeads(
  config: {
    hidden_size: number;
    num_attention_heads: number;
    num_key_value_heads?: number | undefined;
    head_dim?: number | null | undefined;
  },
  file: string,
): void {
  const { hidden_size: hidden, num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: given } = config;
  const problems: string[] = [];
  if (kvHeads !== undefined && heads % kvHeads !== 0)
    problems.push(`"num_attention_heads" (${heads}) must be a multiple of "num_key_value_heads" (${kvHeads})`);
  if (!given && hidden % heads !== 0)
    problems.push(`"hidden_size" (${hidden}) must be a multiple of "num_attention_heads" (${heads}) where there is no "head_dim"`);
  const width = given ?? hidden / heads;
  if (Number.isInteger(width) && width % 2 !== 0) problems.push(`the width of a head (${width}) must be even for the rotary embedding`);
  if (problems.length > 0) throw badConfig(file, problems);
}

/** @throws EspalierError `bad-config` where `whole` is not a multiple of `part` */
export function checkMultiple<K extends string>(config: Readonly<Record<K, number>>, whole: K, part: K, file: string): void {
  if (config[whole] % config[part] !== 0)
    throw badConfig(file, [`"${whole}" (${config[whole]}) must be a multiple of "${part}" (${config[part]})`]);
}

export const badConfig = (file: string, problems: readonly string[]): EspalierError =>
  new EspalierError(
    "bad-config",
    `${file} does not describe a model:\n${fewProblems(problems)
      .map((p) => `  ${p}`)
      .join("\n")}\nFetch or write the file again.`,
  );
