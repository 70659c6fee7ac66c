import { EspalierError, nearestNames } from "../graph/errors.ts";
import { quoteName } from "./safetensors-header.ts";

/** A model with a thousand wrong names is one mistake, not a thousand lines. */
const shownAtMost = 8;

/**
 * Checks that a checkpoint has exactly the tensors that a model expects, each in its shape, and otherwise lists all differences at once.
 *
 * @param expected shapes by parameter name
 * @param found what the checkpoint holds
 * @param options.allowExtra tells names that may be present unused
 * @throws EspalierError `checkpoint-mismatch` naming missing, unexpected (each with the nearest names on the other side) and misshapen tensors
 */
export function matchTensors(
  expected: ReadonlyMap<string, readonly number[]>,
  found: ReadonlyMap<string, { shape: readonly number[] }>,
  options: { allowExtra?: (name: string) => boolean } = {},
): void {
  const allowed = options.allowExtra ?? (() => false);
  const missing = [...expected.keys()].filter((name) => !found.has(name));
  const extra = [...found.keys()].filter((name) => !expected.has(name) && !allowed(name));
  const misshapen = [...expected].filter(([name, shape]) => found.has(name) && !sameShape(shape, found.get(name)!.shape));
  if (missing.length + extra.length + misshapen.length === 0) return;

  const near = (name: string, others: readonly string[], side: string) => {
    const names = nearestNames(name, others, 2);
    return names.length > 0 ? `${quoteName(name)} (nearest ${side}: ${names.map(quoteName).join(", ")})` : quoteName(name);
  };
  const parts = [
    section("missing", missing, (name) => near(name, extra, "in the checkpoint")),
    section("not expected", extra, (name) => near(name, missing, "missing")),
    section("of another shape", misshapen, ([name, shape]) => {
      return `${quoteName(name)} (expected [${shape.join(", ")}], found [${found.get(name)!.shape.join(", ")}])`;
    }),
  ];
  throw new EspalierError(
    "checkpoint-mismatch",
    `the checkpoint does not fit the model (${expected.size} tensors expected, ${found.size} found).\n${parts.filter(Boolean).join("\n")}\n` +
      "Check that config.json belongs to these weights and that the architecture is the right one.",
  );
}

function section<T>(title: string, items: readonly T[], describe: (item: T) => string): string {
  if (items.length === 0) return "";
  const lines = items.slice(0, shownAtMost).map((item) => `    ${describe(item)}`);
  if (items.length > shownAtMost) lines.push(`    and ${items.length - shownAtMost} more`);
  return `  ${items.length} ${title}:\n${lines.join("\n")}`;
}

const sameShape = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((size, i) => size === b[i]);
