/** What adapters train beside their own parameters: whole modules and biases. */
import { EspalierError, nearestNames } from "../../graph/index.ts";
import { CausalLM } from "../../models/causal-lm.ts";
import type { Module } from "../../nn/index.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import type { Graft } from "./graft.ts";
import { endsWithName, liesIn } from "./targets.ts";

/** Heads of classifiers, as PEFT trains them in full without being asked. */
export const classifierHeads = ["score", "classifier"] as const;

/**
 * The modules that a new adapter takes whole: those of these names, and of a model with a new head all that no checkpoint brought. Whoever loads the
 * adapter has other initial values there.
 */
export function wholeModules(model: Module, names: readonly string[]): string[] {
  const { freshModules: fresh = [] } = model as { freshModules?: readonly string[] };
  return [...names, ...fresh.filter((path) => !liesIn(path, names))];
}

/** Unties a head from its embedding where `names` mean only one of the two, or both as modules of their own. */
export function untieFor(graft: Graft, isMeant: (path: string) => boolean, why: string): void {
  const { model } = graft;
  if (!(model instanceof CausalLM) || model.head) return;
  if (isMeant(model.headPath) || isMeant(model.decoder.embedding.path)) graft.untie(why);
}

/**
 * Takes the modules of these names into the adapter, whole.
 *
 * @param optional names that need not exist
 * @throws EspalierError `no-module`
 */
export function trainInFull(graft: Graft, names: readonly string[], optional: readonly string[] = classifierHeads): void {
  const { model } = graft;
  untieFor(graft, (path) => names.some((name) => endsWithName(path, name)), "the adapter has a copy of one of them that is its own");
  for (const name of new Set(names)) {
    const found = [...model.namedParameters()].filter(([path]) => liesIn(path, [name]));
    if (found.length === 0 && !optional.includes(name)) throw noModule(model, name);
    for (const [path, parameter] of found) if (!graft.places.has(path)) graft.claim(path, parameter, { trained: true });
  }
}

function noModule(model: Module, name: string): EspalierError {
  const endings = new Set(Array.from(model.namedModules(), ([path]) => path.split(".").at(-1)!));
  return new EspalierError(
    "no-module",
    `The module "${name}" that is to be trained in full is not in the model, or has no parameter. Nearest: ${nearestNames(name, endings).join(", ")}.`,
  );
}

/** Takes biases into the adapter: all of the model, or those of the layers that it adapts. */
export function trainBiases(graft: Graft, which: "none" | "lora_only" | "all"): void {
  if (which === "none") return;
  const { model } = graft;
  for (const [path, parameter] of [...model.namedParameters()]) {
    if (!path.endsWith(".bias") || graft.places.has(path)) continue;
    if (which === "all" || model.module(path.slice(0, -".bias".length)) instanceof AdapterLayer)
      graft.claim(path, parameter, { trained: true });
  }
}

/** Takes the parameters that an adapter's layers have beside those of their bases. */
export function takeOwn(graft: Graft, path: string, layer: AdapterLayer): void {
  const below = new Set(layer.standsOn?.parameters());
  for (const [name, parameter] of layer.namedParameters()) if (!below.has(parameter)) graft.places.set(`${path}.${name}`, parameter);
}
