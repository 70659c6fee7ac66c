import { EspalierError } from "../../graph/index.ts";
import { adafactor } from "./adafactor.ts";
import { adamW } from "./adamw.ts";
import type { OptimizerFactory } from "./define.ts";
import { lion } from "./lion.ts";
import { muon } from "./muon.ts";
import type { Optimizer } from "./optimizer.ts";
import { sgd } from "./sgd.ts";

/** Every optimizer, by its name. */
export const optimizers = [adamW, adafactor, lion, muon, sgd] as readonly OptimizerFactory<never>[];

export const optimizerNames = optimizers.map(({ optimizer }) => optimizer);

/**
 * The optimizer of a name, for a command line or a configuration. `options`: its own and `learningRate`, `weightDecay`.
 *
 * @throws EspalierError `bad-option`: an unknown name, or what an option's schema has against it
 */
export function optimizerByName(name: string, options: Readonly<Record<string, unknown>>): Optimizer {
  const factory = optimizers.find(({ optimizer }) => optimizer === name);
  if (!factory) throw new EspalierError("bad-option", `There is no optimizer "${name}"; there are ${optimizerNames.join(", ")}.`);
  return factory(options as never);
}
