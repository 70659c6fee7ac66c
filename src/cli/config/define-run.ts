import type { RunConfig } from "./run-options.ts";

export type { RunConfig };

/**
 * The run of an `espalier.config.ts`: the options of `espalier train` under the same names, in camelCase. It returns what it is given; it is there for the types.
 *
 * ```ts
 * import { defineRun } from "espalier/config";
 *
 * export default defineRun({
 *   data: "mail.jsonl",
 *   model: "org/name",
 *   rank: 16,
 *   epochs: 3,
 * });
 * ```
 */
export const defineRun = (run: RunConfig): RunConfig => run;
