import { z } from "zod";
import { type PeftConfig, type PeftConfigInput, parsePeftConfig, writePeftAdapter } from "../../checkpoints/index.ts";
import type { Module } from "../../nn/index.ts";
import { LinearLayer } from "../../nn/index.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { classifierHeads, wholeModules } from "./full-training.ts";
import { Graft } from "./graft.ts";
import { graftLora } from "./lora-graft.ts";
import { mergeAdapters } from "./merge.ts";
import { loadInto, savedParts, taskType } from "./peft-format.ts";

const names = z.union([z.array(z.string()).min(1), z.string()]);
const positive = z.record(z.string(), z.number().positive());

const schema = z.strictObject({
  /** Rank of the update. */
  rank: z
    .int()
    .positive()
    .max(2 ** 14)
    .default(8),
  /** The update is scaled by alpha / rank. */
  alpha: z.number().positive().default(16),
  /** Probability of zeroing an input of the update while training. */
  dropout: z.number().min(0).lt(1).default(0),
  /** Endings of the paths of the Linears and Embeddings to adapt, a regular expression for the whole path, or "all-linear". */
  targets: names.default(["q_proj", "v_proj"]),
  /** Targets left out, in the same way. */
  exclude: names.optional(),
  /** Only in layers of these numbers, where `targets` is a list. */
  layers: z.union([z.array(z.int().nonnegative()), z.int().nonnegative()]).optional(),
  /** Ranks and alphas of single modules, by a regular expression for the end of the path. */
  rankPattern: z.record(z.string(), z.int().positive()).default({}),
  alphaPattern: positive.default({}),
  /** Scales by alpha / √rank (Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"). */
  rankStabilized: z.boolean().default(false),
  /** Decomposes weights into magnitudes and directions (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation"). */
  decomposed: z.boolean().default(false),
  /** Which biases are trained too: none, those of adapted layers, or all. */
  bias: z.enum(["none", "lora_only", "all"]).default("none"),
  /** Whether the update has a bias of its own. */
  updateBias: z.boolean().default(false),
  /** How A starts: PyTorch's default for a Linear, or N(0, 1/rank²). B starts at zero; of an embedding it is the other way round. */
  init: z.enum(["kaiming", "gaussian"]).default("kaiming"),
  /** Modules trained in full and saved with the adapter, such as a classification head. Those of classifiers need not be there; a new head is always taken. */
  modulesToSave: z.array(z.string()).default([...classifierHeads]),
  /** Tokens whose rows of the input embedding are trained, as those that were added. */
  tokens: z.array(z.int().nonnegative()).optional(),
  seed: z.int().default(0),
});

export type LoraOptions = z.input<typeof schema>;

/**
 * Low-rank adaptation: the frozen weight of each target gets an update s·B·A of low rank, and only A and B are trained.
 *
 * ```ts
 * await train({ model, methods: [lora({ rank: 8, targets: ["q_proj", "v_proj"] })], … });
 * ```
 */
export const lora = defineMethod(
  {
    slug: "lora",
    family: "adapters",
    summary: "train a low-rank update beside each frozen weight matrix",
    paper: {
      title: "LoRA: Low-Rank Adaptation of Large Language Models",
      authors: "Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen",
      year: 2021,
    },
    seams: ["weights"],
  },
  schema,
  (options): Method => {
    const plain = configOf(options);
    const configFor = (model: Module) => ({ ...plain, modules_to_save: wholeModules(model, options.modulesToSave) });
    return {
      name: "lora",
      options,
      weights(model) {
        graftLora(new Graft(model), configFor(model), options);
      },
      save(directory, { base, parameters, model }) {
        // What other methods have unfrozen is theirs to save.
        const config = configFor(model);
        const parts = savedParts(model, parameters, config);
        const complete: PeftConfigInput = {
          ...config,
          ...parts.config,
          base_model_name_or_path: base ?? null,
          task_type: taskType(model),
          fan_in_fan_out: isInOut(model),
        };
        writePeftAdapter(directory, { config: complete, tensors: parts.tensors });
      },
      load: (model, directory) => loadInto(model, directory, lora),
      merge: (model, device) => void mergeAdapters(model, device),
    };
  },
  { type: "LORA", graft: (graft, config) => graftLora(graft, config as PeftConfig<"LORA">) },
);

function configOf(options: z.output<typeof schema>): PeftConfig<"LORA"> {
  return parsePeftConfig<"LORA">(
    {
      peft_type: "LORA",
      r: options.rank,
      lora_alpha: options.alpha,
      lora_dropout: options.dropout,
      target_modules: options.targets,
      exclude_modules: options.exclude ?? null,
      layers_to_transform: options.layers ?? null,
      rank_pattern: options.rankPattern,
      alpha_pattern: options.alphaPattern,
      use_rslora: options.rankStabilized,
      use_dora: options.decomposed,
      bias: options.bias,
      lora_bias: options.updateBias,
      modules_to_save: options.modulesToSave,
      trainable_token_indices: options.tokens ?? null,
      init_lora_weights: options.init === "gaussian" ? "gaussian" : true,
      inference_mode: true,
    },
    "lora",
  );
}

/** Whether adapted weights lie as [in, out], which PEFT must be told. */
const isInOut = (model: Module): boolean =>
  [...model.namedModules()].some(
    ([, m]) => m instanceof AdapterLayer && m.standsOn instanceof LinearLayer && m.standsOn.layout === "in-out",
  );
