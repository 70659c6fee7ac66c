import type { Rule, Rules } from "../context.ts";
import { attentions } from "./attention.ts";
import { control } from "./control.ts";
import { convolution } from "./convolution.ts";
import { elementwise } from "./elementwise.ts";
import { indexing } from "./indexing.ts";
import { matmul } from "./matmul.ts";
import { movement } from "./movement.ts";
import { normalization } from "./normalization.ts";
import { quantized } from "./quantized.ts";
import { reduce } from "./reduce.ts";

const all: Rules = {
  ...attentions,
  ...control,
  ...convolution,
  ...elementwise,
  ...indexing,
  ...matmul,
  ...movement,
  ...normalization,
  ...quantized,
  ...reduce,
};

/** Every operator that can be decoded: its name, after `domain.` where it is not ONNX's own. */
export const operatorNames: readonly string[] = Object.keys(all);

const qualified = (domain: string, opType: string): string => (domain === "" ? opType : `${domain}.${opType}`);

export const ruleFor = (domain: string, opType: string): Rule | undefined =>
  Object.hasOwn(all, qualified(domain, opType)) ? all[qualified(domain, opType)] : undefined;
