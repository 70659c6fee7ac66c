import { ia3 } from "./adapters/ia3.ts";
import { lora } from "./adapters/lora.ts";
import { pTuning } from "./adapters/p-tuning.ts";
import { prefixTuning } from "./adapters/prefix-tuning.ts";
import { promptTuning } from "./adapters/prompt-tuning.ts";
import type { Factory, MethodFactory } from "./define.ts";
import { pbt } from "./search/pbt.ts";

// biome-ignore lint/suspicious/noExplicitAny: the catalogue forgets each method's option types; the methods check them.
type AnyOptions = any;

/** What a run can be trained with. */
export const trainingMethods: readonly MethodFactory<AnyOptions>[] = [lora, ia3, promptTuning, pTuning, prefixTuning];

/** Every method: what `espalier methods` lists. */
export const catalogue: readonly Factory<AnyOptions, unknown>[] = [...trainingMethods, pbt];
