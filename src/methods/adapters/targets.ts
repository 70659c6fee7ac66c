import { EspalierError, nearestNames, show, withinTime } from "../../graph/index.ts";
import { Embedding, LinearLayer, type Module } from "../../nn/index.ts";
import { AdapterLayer } from "./adapter-layer.ts";

/** Which layers an adapter goes on: endings of module paths (`q_proj`), one regular expression for the whole path, or every Linear but the head ("all-linear"). */
export type Targets = readonly string[] | string;

export interface Selection {
  targets: Targets;
  /** Modules left out: endings of their paths, or one regular expression. */
  exclude?: Targets | null | undefined;
  /** Modules trained in full, which are never adapted. */
  full?: readonly string[] | undefined;
  /** Numbers of the layers, where `targets` is a list. Default: all. */
  layers?: readonly number[] | number | null | undefined;
  /** What the lists of layers are called, as `layers` or `h`. Default: any name. */
  layersPattern?: readonly string[] | string | null | undefined;
  /** What may be adapted. Default Linears. */
  kinds?: "linear" | "linear or embedding";
  /** Whether names that match nothing are passed over, because the tensors of an adapter will tell. */
  lenient?: boolean;
}

export type TargetLayer = LinearLayer | Embedding;

/** The layers that `selection` chooses, with their paths. */
export function findTargets(model: Module, selection: Selection): [path: string, layer: TargetLayer][] {
  const { targets } = selection;
  const modules = [...model.namedModules()];
  const adapted = modules.filter(([, m]) => m instanceof AdapterLayer).map(([path]) => path);
  const isInside = (path: string) => adapted.some((adapter) => path.startsWith(`${adapter}.`));
  const isLayer = (m: Module) => m instanceof LinearLayer || (selection.kinds === "linear or embedding" && m instanceof Embedding);
  const excluded = excluder(selection);
  const layers = modules.filter((entry): entry is [string, TargetLayer] => isLayer(entry[1]) && !excluded(entry[0]) && !isInside(entry[0]));
  const matches = matcher(selection);
  const taken = adapted.find((path) => matches(path) && !excluded(path));
  if (taken !== undefined)
    throw new EspalierError(
      "already-adapted",
      `"${taken}" carries an adapter already. Choose other targets, merge that adapter first, or train on with it and without a new one.`,
    );
  const found = layers.filter(([path, layer]) => matches(path) && !(targets === "all-linear" && !(layer instanceof LinearLayer)));
  if (selection.lenient) return found;
  const unmatched =
    typeof targets === "string"
      ? [targets].filter(() => found.length === 0)
      : targets.filter((t) => !modules.some(([path, m]) => isLayer(m) && endsWithName(path, t) && !isInside(path)));
  if (unmatched.length > 0 || found.length === 0) throw noTarget(unmatched, layers, selection);
  return found;
}

function noTarget(unmatched: readonly string[], layers: readonly [string, TargetLayer][], { kinds, targets }: Selection): EspalierError {
  const endings = [...new Set(layers.map(([path]) => path.split(".").at(-1)!))];
  const [first = ""] = unmatched;
  const [what, all] = kinds === "linear or embedding" ? ["Linear or Embedding", "Linears and Embeddings"] : ["Linear", "Linears"];
  return new EspalierError(
    "no-target",
    `The target ${unmatched.map((t) => JSON.stringify(t)).join(", ") || "list"} matches no ${what} of the model. Nearest: ${nearestNames(first, endings).join(", ")}. The model's ${all} are called ${endings.join(", ")}.${typeof targets === "string" ? ' A single text is a regular expression for the whole path; give endings as a list, as ["q_proj"].' : ""}`,
  );
}

export const endsWithName = (path: string, name: string): boolean => path === name || path.endsWith(`.${name}`);

/**
 * Whether a parameter or module lies in a module whose path ends in such a name, in the middle of a word too: PEFT trains DistilBERT's
 * `pre_classifier` where "classifier" is named.
 */
export const liesIn = (path: string, modules: readonly string[]): boolean => modules.some((name) => `${path}.`.includes(`${name}.`));

/** Whether a path is meant by endings or by a regular expression. */
export function matchesNames(names: Targets | null | undefined, what: string): (path: string) => boolean {
  if (names === null || names === undefined) return () => false;
  if (typeof names !== "string") return (path) => names.some((name) => endsWithName(path, name));
  const expression = regularExpression(names, what);
  return (path) => expression(path) !== null;
}

function excluder({ exclude, full = [] }: Selection): (path: string) => boolean {
  const named = matchesNames(exclude, "exclude");
  return (path) => named(path) || liesIn(path, full);
}

/** Whether a selection means the module at a path, if there is one. */
export function isSelected(selection: Selection): (path: string) => boolean {
  const [matches, excluded] = [matcher(selection), excluder(selection)];
  return (path) => matches(path) && !excluded(path);
}

/** Whether `targets` mean a path. */
function matcher({ targets, layers, layersPattern }: Selection): (path: string) => boolean {
  if (targets === "all-linear") return (path) => !endsWithName(path, "lm_head") && !endsWithName(path, "embed_out");
  const matches = matchesNames(targets, "targets");
  if (typeof targets === "string" || layers === null || layers === undefined) return matches;
  const wanted = new Set([layers].flat());
  const names = [layersPattern ?? []].flat();
  const number = regularExpression(`(?:.*?\\.)?${names.length > 0 ? `(?:${names.join("|")})` : "[^.]*"}\\.(\\d+)\\..*`, "layersPattern");
  return (path) => {
    const layer = number(path)?.[1];
    return layer !== undefined && wanted.has(Number(layer)) && matches(path);
  };
}

/** A pattern for whole paths. It may come with an adapter, so it gets a time. */
function regularExpression(pattern: string, what: string): (path: string) => RegExpExecArray | null {
  const refused = (problem: string, cause: unknown) => new EspalierError("bad-option", `${what}: ${show(pattern)} ${problem}`, { cause });
  let expression: RegExp;
  try {
    expression = new RegExp(`^(?:${pattern})$`);
  } catch (cause) {
    throw refused(`is not a regular expression: ${(cause as Error).message}`, cause);
  }
  return (path) => {
    try {
      return withinTime(250, () => expression.exec(path));
    } catch (cause) {
      throw refused(`has no end of backtracking in the path "${path}". Write it without a repetition of repetitions.`, cause);
    }
  };
}
