import { ia3 } from "./adapters/ia3.ts";
import { lora } from "./adapters/lora.ts";
import { pTuning } from "./adapters/p-tuning.ts";
import { prefixTuning } from "./adapters/prefix-tuning.ts";
import { promptTuning } from "./adapters/prompt-tuning.ts";
import type { MethodFactory } from "./define.ts";

/** Every method, one line each: what `espalier methods` lists. */
// biome-ignore lint/suspicious/noExplicitAny: the catalogue forgets each method's option types; the methods check them.
export const catalogue: readonly MethodFactory<any>[] = [lora, ia3, promptTuning, pTuning, prefixTuning];
