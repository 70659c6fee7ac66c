import { choicesOf, defaultOf, type RunOption } from "./run-option.ts";
import { type RunConfig, runOptionGroups } from "./run-options.ts";

const literal = (value: unknown): string => JSON.stringify(value, undefined, 1).replace(/\n\s*/g, " ");

function lines(key: string, { schema, help, byDefault, value: placeholder }: RunOption, given: unknown): string[] {
  const choices = choicesOf(schema);
  const fallback = defaultOf(schema);
  const comment = `  // ${help}${choices ? `: ${choices.join(", ")}` : ""}${byDefault && byDefault !== "required" ? ` (default: ${byDefault})` : ""}`;
  if (given !== undefined) return [comment, `  ${key}: ${literal(given)},`];
  // What has no default of its own stands there as a place to write to.
  const example = byDefault !== undefined || fallback === undefined ? `… ${placeholder ?? "true"}` : literal(fallback);
  return [comment, `  // ${key}: ${example},`];
}

/** An espalier.config.ts that says what was chosen, and shows every other option with its default. */
export function configSource(chosen: RunConfig): string {
  const groups = runOptionGroups.map(([heading, options]) => [
    "",
    `  // ${heading.replace(/:$/, "")}`,
    "",
    ...Object.entries(options).flatMap(([key, option]) => lines(key, option, chosen[key as keyof RunConfig])),
  ]);
  return [
    'import { defineRun } from "espalier/config";',
    "",
    "// espalier train reads this file. A flag of the same name wins over it: espalier train --rank 16",
    "export default defineRun({",
    ...groups.flat().slice(1),
    "});",
    "",
  ].join("\n");
}
