/** `adapter_config.json` as Hugging Face PEFT writes it. Field names and defaults are PEFT's own; keys that we do not know are kept. */
import { z } from "zod";
import { EspalierError, fewProblems, show } from "../graph/errors.ts";
import { TimeLimitError, withinTime } from "../graph/time-limit.ts";

/** Of every kind. */
const common = {
  base_model_name_or_path: z.string().nullish(),
  task_type: z.string().nullish(),
  inference_mode: z.boolean().default(true),
  /** Modules trained and saved in full beside the adapter, such as a classification head. */
  modules_to_save: z.array(z.string()).nullish(),
};

const names = z.union([z.array(z.string()), z.string()]).nullish();

/** Of adapters that go onto single modules. */
const targeted = {
  ...common,
  /** Module name endings, or one regular expression for the whole path, or "all-linear". */
  target_modules: names,
  exclude_modules: names,
  /** Whether the adapted weights lie as [in, out]. The base model knows; PEFT wants to be told. */
  fan_in_fan_out: z.boolean().default(false),
};

const patterns = z.record(z.string(), z.number().positive()).nullish();

const loraSchema = z.looseObject({
  peft_type: z.literal("LORA"),
  ...targeted,
  /** Rank. Required, like lora_alpha: a misspelt key must not silently become a default. */
  r: z.number().int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).max(1).default(0),
  bias: z.enum(["none", "all", "lora_only"]).default("none"),
  /** Scale by alpha / √r instead of alpha / r (arXiv 2312.03732). */
  use_rslora: z.boolean().default(false),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  /** Ranks and alphas of single modules, by a regular expression for the end of the path. */
  rank_pattern: patterns,
  alpha_pattern: patterns,
  /** Only in layers of these numbers; counts where target_modules is a list. */
  layers_to_transform: z.union([z.array(z.number().int()), z.number().int()]).nullish(),
  layers_pattern: names,
  /** Weight-decomposed: a magnitude for each output, and a direction that the update changes (arXiv 2402.09353). */
  use_dora: z.boolean().nullish(),
  /** Whether lora_B has a bias. */
  lora_bias: z.boolean().nullish(),
  /** Rows of the embedding that are trained: of the input embedding, or by the embedding's name. */
  trainable_token_indices: z
    .union([z.array(z.number().int().nonnegative()), z.record(z.string(), z.array(z.number().int().nonnegative()))])
    .nullish(),
});

const ia3Schema = z.looseObject({
  peft_type: z.literal("IA3"),
  ...targeted,
  /** Targets whose inputs are scaled, not their outputs. */
  feedforward_modules: names,
});

/** Of adapters that are virtual tokens. */
const prompting = {
  ...common,
  num_virtual_tokens: z.number().int().positive(),
  token_dim: z.number().int().positive().nullish(),
  num_layers: z.number().int().positive().nullish(),
  num_attention_heads: z.number().int().positive().nullish(),
  num_transformer_submodules: z.number().int().positive().nullish(),
};

const promptSchema = z.looseObject({ peft_type: z.literal("PROMPT_TUNING"), ...prompting });
const pTuningSchema = z.looseObject({ peft_type: z.literal("P_TUNING"), ...prompting });
const prefixSchema = z.looseObject({ peft_type: z.literal("PREFIX_TUNING"), ...prompting });

const schemas = { LORA: loraSchema, IA3: ia3Schema, PROMPT_TUNING: promptSchema, P_TUNING: pTuningSchema, PREFIX_TUNING: prefixSchema };
type Schemas = typeof schemas;

/** PEFT's names of the kinds of adapters that are read. */
export type PeftType = keyof Schemas;

/** What {@link parsePeftConfig} returns: defaults filled in, unknown keys kept. */
export type PeftConfig<T extends PeftType = PeftType> = { [K in T]: z.output<Schemas[K]> }[T];

/** What a writer must give; the rest has PEFT's defaults. */
export type PeftConfigInput<T extends PeftType = PeftType> = { [K in T]: z.input<Schemas[K]> }[T];

/**
 * Checks a parsed adapter_config.json.
 *
 * @throws EspalierError `adapter-config` listing every wrong key of `file`
 */
export function parsePeftConfig<T extends PeftType = PeftType>(value: PeftConfigInput<T>, file: string): PeftConfig<T>;
export function parsePeftConfig(value: unknown, file: string): PeftConfig;
export function parsePeftConfig(value: unknown, file: string): PeftConfig {
  const type = typeof value === "object" && value !== null ? (value as { peft_type?: unknown }).peft_type : undefined;
  if (typeof type === "string" && !Object.hasOwn(schemas, type)) {
    throw new EspalierError(
      "adapter-config",
      `${file}: peft_type is ${show(type)}; of PEFT's adapters ${Object.keys(schemas).join(", ")} are read. Use one of these.`,
    );
  }
  const result = (typeof type === "string" ? schemas[type as PeftType] : loraSchema).safeParse(value);
  if (result.success) return result.data;
  const problems = fewProblems(result.error.issues.map((issue) => `${issue.path.join(".") || "the file"}: ${issue.message}`)).map(
    (problem) => `  ${problem}`,
  );
  throw new EspalierError(
    "adapter-config",
    `${file}: is not a PEFT ${typeof type === "string" ? type : "LORA"} configuration:\n${problems.join("\n")}\nCorrect these keys or save the adapter again.`,
  );
}

/**
 * Rank, alpha and resulting scale of the LoRA on one module, with `rank_pattern`, `alpha_pattern` and `use_rslora` applied as PEFT
 * applies them: the first pattern that matches the end of the path wins.
 *
 * @param file named in errors
 * @throws EspalierError `adapter-config` for a pattern that is none, or has no end
 */
export function loraScaling(
  config: PeftConfig<"LORA">,
  modulePath: string,
  file = "adapter_config.json",
): { rank: number; alpha: number; scale: number } {
  const rank = byPattern(config.rank_pattern, modulePath, "rank_pattern", file) ?? config.r;
  const alpha = byPattern(config.alpha_pattern, modulePath, "alpha_pattern", file) ?? config.lora_alpha;
  return { rank, alpha, scale: alpha / (config.use_rslora ? Math.sqrt(rank) : rank) };
}

function byPattern(table: Record<string, number> | null | undefined, modulePath: string, key: string, file: string): number | undefined {
  for (const [pattern, value] of Object.entries(table ?? {})) {
    try {
      const expression = new RegExp(`^(.*\\.)?(${pattern})$`);
      if (withinTime(250, () => expression.test(modulePath))) return value;
    } catch (cause) {
      const problem = cause instanceof TimeLimitError ? "backtracks without an end" : "is not a regular expression";
      throw new EspalierError("adapter-config", `${file}: ${key}: ${show(pattern)} ${problem}. Correct it.`, { cause });
    }
  }
  return undefined;
}

/** Keys that change nothing about what a saved adapter computes: bookkeeping, and how training started. */
const harmless = new Set([
  ...["auto_mapping", "peft_version", "revision"],
  ...["loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size", "megatron_core"],
  ...["init_ia3_weights", "init_weights", "encoder_hidden_size", "prefix_projection"],
  ...["prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"],
  ...["encoder_reparameterization_type", "encoder_num_layers", "encoder_dropout"],
]);

/** Initialisations that also change the base weights, so that an adapter of them means nothing on the original base. */
const initialisationsThatChangeTheBase = /^(pissa|olora|corda|loftq|lora_ga)/i;

/**
 * Options of a PEFT configuration that are switched on and that are not computed here (`layer_replication`, `alora_invocation_tokens`, …),
 * including keys that we have never heard of. They survive a round trip, but the adapter would give other numbers here than in PEFT:
 * callers must refuse it or say so.
 */
export function unsupportedPeftOptions(config: PeftConfig): { option: string; value: unknown }[] {
  const known = schemas[config.peft_type].shape;
  const found = Object.entries(config)
    .filter(([option, value]) => !harmless.has(option) && !Object.hasOwn(known, option) && isSwitchedOn(value))
    .map(([option, value]) => ({ option, value: value as unknown }));
  const initialisation = config.peft_type === "LORA" ? config.init_lora_weights : undefined;
  if (typeof initialisation === "string" && initialisationsThatChangeTheBase.test(initialisation)) {
    found.push({ option: "init_lora_weights", value: initialisation });
  }
  return found;
}

function isSwitchedOn(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === "") return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}
