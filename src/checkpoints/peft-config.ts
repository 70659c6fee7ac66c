/** `adapter_config.json` as Hugging Face PEFT writes it. Field names and defaults are PEFT's own. */
import { z } from "zod";
import { EspalierError } from "../graph/errors.ts";

const patterns = z.record(z.string(), z.number().positive()).nullish();

/** Keys that we do not know are kept, so that a newer PEFT finds its options again after a round trip. */
const peftConfigSchema = z.looseObject({
  peft_type: z.literal("LORA"),
  /** Rank. Required, like lora_alpha: a misspelt key must not silently become a default. */
  r: z.number().int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).max(1).default(0),
  /** Module name endings, or one regular expression for the whole path, or "all-linear". */
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  bias: z.enum(["none", "all", "lora_only"]).default("none"),
  /** Modules trained and saved in full beside the adapter, such as a classification head. */
  modules_to_save: z.array(z.string()).nullish(),
  base_model_name_or_path: z.string().nullish(),
  task_type: z.string().nullish(),
  fan_in_fan_out: z.boolean().default(false),
  /** Scale by alpha / √r instead of alpha / r (arXiv 2312.03732). */
  use_rslora: z.boolean().default(false),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  /** Ranks and alphas of single modules, by a regular expression for the end of the path. */
  rank_pattern: patterns,
  alpha_pattern: patterns,
  inference_mode: z.boolean().default(true),
});

/** What {@link parsePeftConfig} returns: defaults filled in, unknown keys kept. */
export type PeftConfig = z.output<typeof peftConfigSchema>;

/** What a writer must give; the rest has PEFT's defaults. */
export type PeftConfigInput = z.input<typeof peftConfigSchema>;

/**
 * Checks a parsed adapter_config.json.
 *
 * @throws EspalierError `adapter-config` listing every wrong key of `file`
 */
export function parsePeftConfig(value: unknown, file: string): PeftConfig {
  const type = typeof value === "object" && value !== null ? (value as { peft_type?: unknown }).peft_type : undefined;
  if (typeof type === "string" && type !== "LORA") {
    throw new EspalierError(
      "adapter-config",
      `${file}: peft_type is ${JSON.stringify(type)}; of PEFT's adapters only "LORA" is read. Use a LoRA adapter.`,
    );
  }
  const result = peftConfigSchema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => `  ${issue.path.join(".") || "the file"}: ${issue.message}`);
  throw new EspalierError(
    "adapter-config",
    `${file}: is not a PEFT LoRA configuration:\n${problems.join("\n")}\nCorrect these keys or save the adapter again.`,
  );
}

/**
 * Rank, alpha and resulting scale of the LoRA on one module, with `rank_pattern`, `alpha_pattern` and `use_rslora` applied as PEFT
 * applies them: the first pattern that matches the end of the path wins.
 */
export function loraScaling(config: PeftConfig, modulePath: string): { rank: number; alpha: number; scale: number } {
  const rank = byPattern(config.rank_pattern, modulePath, "rank_pattern") ?? config.r;
  const alpha = byPattern(config.alpha_pattern, modulePath, "alpha_pattern") ?? config.lora_alpha;
  return { rank, alpha, scale: alpha / (config.use_rslora ? Math.sqrt(rank) : rank) };
}

function byPattern(table: Record<string, number> | null | undefined, modulePath: string, key: string): number | undefined {
  for (const [pattern, value] of Object.entries(table ?? {})) {
    let expression: RegExp;
    try {
      expression = new RegExp(`^(.*\\.)?(${pattern})$`);
    } catch (cause) {
      throw new EspalierError(
        "adapter-config",
        `${key}: ${JSON.stringify(pattern)} is not a regular expression. Correct it in adapter_config.json.`,
        {
          cause,
        },
      );
    }
    if (expression.test(modulePath)) return value;
  }
  return undefined;
}

/** Keys that change nothing about what a saved adapter computes: bookkeeping, which modules were chosen, and how training started. */
const harmless = new Set([
  ...Object.keys(peftConfigSchema.shape),
  ...["auto_mapping", "peft_version", "revision", "inference_mode", "exclude_modules", "layers_to_transform", "layers_pattern"],
  ...["loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size", "megatron_core"],
]);

/** Initialisations that also change the base weights, so that an adapter of them means nothing on the original base. */
const initialisationsThatChangeTheBase = /^(pissa|olora|corda|loftq|lora_ga)/i;

/**
 * Options of a PEFT configuration that are switched on and that a plain LoRA does not compute (`use_dora`, `layer_replication`, …),
 * including keys that we have never heard of. They survive a round trip, but the adapter would give other numbers here than in PEFT:
 * callers must refuse it or say so.
 */
export function unsupportedPeftOptions(config: PeftConfig): { option: string; value: unknown }[] {
  const found = Object.entries(config)
    .filter(([option, value]) => !harmless.has(option) && isSwitchedOn(value))
    .map(([option, value]) => ({ option, value: value as unknown }));
  const { init_lora_weights: initialisation } = config;
  if (typeof initialisation === "string" && initialisationsThatChangeTheBase.test(initialisation)) {
    found.push({ option: "init_lora_weights", value: initialisation });
  }
  return found;
}

function isSwitchedOn(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === "") return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}
