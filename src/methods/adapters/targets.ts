import { EspalierError, nearestNames } from "../../graph/index.ts";
import { LinearLayer, type Module } from "../../nn/index.ts";
import { LoraLinear } from "./lora-linear.ts";

/** Which Linears an adapter goes on: endings of module paths (`q_proj`), one regular expression for the whole path, or all but the head. */
export type Targets = readonly string[] | string;

/** The Linears that `targets` choose, with their paths. Heads in `excluded` are trained in full and never adapted. */
export function findTargets(model: Module, targets: Targets, excluded: readonly string[] = []): [path: string, layer: LinearLayer][] {
  const isExcluded = (path: string) => excluded.some((name) => path === name || path.endsWith(`.${name}`));
  const modules = [...model.namedModules()];
  const adapted = modules.filter(([, m]) => m instanceof LoraLinear).map(([path]) => path);
  const isInside = (path: string) => adapted.some((adapter) => path.startsWith(`${adapter}.`));
  const linears = modules.filter(
    (entry): entry is [string, LinearLayer] => entry[1] instanceof LinearLayer && !isExcluded(entry[0]) && !isInside(entry[0]),
  );
  const matches = matcher(targets);
  const taken = adapted.find(matches);
  if (taken !== undefined)
    throw new EspalierError(
      "already-adapted",
      `"${taken}" carries a low-rank adapter already. Choose other targets, merge that adapter first, or train on with it and without a new one.`,
    );
  const found = linears.filter(([path]) => matches(path));
  const unmatched =
    typeof targets === "string"
      ? found.length === 0
        ? [targets]
        : []
      : targets.filter((t) => !linears.some(([path]) => endsWithName(path, t)));
  if (unmatched.length > 0 || found.length === 0) {
    const endings = [...new Set(linears.map(([path]) => path.split(".").at(-1)!))];
    const [first = ""] = unmatched;
    throw new EspalierError(
      "no-target",
      `The target ${unmatched.map((t) => JSON.stringify(t)).join(", ") || "list"} matches no Linear of the model. Nearest: ${nearestNames(first, endings).join(", ")}. The model's Linears are called ${endings.join(", ")}.`,
    );
  }
  return found;
}

const endsWithName = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);

function matcher(targets: Targets): (path: string) => boolean {
  if (typeof targets !== "string") return (path) => targets.some((name) => endsWithName(path, name));
  if (targets === "all-linear") return (path) => !endsWithName(path, "lm_head");
  try {
    const expression = new RegExp(`^(?:${targets})$`);
    return (path) => expression.test(path);
  } catch (cause) {
    throw new EspalierError(
      "bad-option",
      `targets: ${JSON.stringify(targets)} is not a regular expression: ${cause instanceof Error ? cause.message : cause}`,
      { cause },
    );
  }
}
