export { type LoraOptions, loadLora, lora } from "./adapters/lora.ts";
export { LoraLinear } from "./adapters/lora-linear.ts";
export { type Merged, mergeLora } from "./adapters/lora-merge.ts";
export { defineMethod, type MethodCard, type MethodFactory } from "./define.ts";
