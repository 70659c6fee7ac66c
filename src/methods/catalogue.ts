import { lora } from "./adapters/lora.ts";
import type { MethodFactory } from "./define.ts";

/** Every method, one line each: what `espalier methods` lists. */
// biome-ignore lint/suspicious/noExplicitAny: the catalogue forgets each method's option types; the methods check them.
export const catalogue: readonly MethodFactory<any>[] = [lora];
