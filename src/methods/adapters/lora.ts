import { z } from "zod";
import { loraScaling, type PeftConfigInput, readPeftAdapter, unsupportedPeftOptions, writePeftAdapter } from "../../checkpoints/index.ts";
import { EspalierError, nearestNames, Random, type Storage } from "../../graph/index.ts";
import { kaimingUniform, type Module, normal, type Parameter } from "../../nn/index.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { LoraLinear } from "./lora-linear.ts";
import { mergeLora } from "./lora-merge.ts";
import { findTargets } from "./targets.ts";

const schema = z.strictObject({
  /** Rank of the update. */
  rank: z.int().positive().default(8),
  /** The update is scaled by alpha / rank. */
  alpha: z.number().positive().default(16),
  /** Probability of zeroing an input of the update while training. */
  dropout: z.number().min(0).lt(1).default(0),
  /** Endings of the paths of the Linears to adapt, a regular expression for the whole path, or "all-linear". */
  targets: z.union([z.array(z.string()).min(1), z.string()]).default(["q_proj", "v_proj"]),
  /** Which biases are trained too: none, those of adapted Linears, or all. */
  bias: z.enum(["none", "lora_only", "all"]).default("none"),
  /** How A starts: PyTorch's default for a Linear, or N(0, 1/rank²). B starts at zero. */
  init: z.enum(["kaiming", "gaussian"]).default("kaiming"),
  /** Modules trained in full and saved with the adapter, such as a classification head. */
  modulesToSave: z.array(z.string()).default(["score", "classifier"]),
  seed: z.int().default(0),
});

export type LoraOptions = z.input<typeof schema>;

/**
 * Low-rank adaptation: the frozen weight of each target Linear gets an update s·B·A of low rank, and only A and B are trained.
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
    const { rank, alpha, targets, bias, modulesToSave } = options;
    return {
      name: "lora",
      options,
      weights(model) {
        const found = findTargets(model, targets, modulesToSave);
        for (const [i, [path, layer]] of found.entries()) {
          const random = new Random(options.seed, i);
          const initA = options.init === "kaiming" ? kaimingUniform(random) : normal(random, 1 / rank);
          model.replace(path, new LoraLinear(layer, { rank, scaling: alpha / rank, dropout: options.dropout, initA }));
        }
        model.assignNames();
        for (const [path, parameter] of model.namedParameters())
          if (trainsInFull(path, modulesToSave) || trainsBias(path, bias, model)) parameter.frozen = false;
      },
      save(directory, { base, parameters: trained, model }) {
        // What other methods have unfrozen is theirs to save.
        const parameters = trained.filter(({ name }) => isLora(name) || trainsInFull(name, modulesToSave) || trainsBias(name, bias, model));
        const saved = modulesToSave.filter((name) => parameters.some((p) => trainsInFull(p.name, [name])));
        const config: PeftConfigInput = {
          peft_type: "LORA",
          r: rank,
          lora_alpha: alpha,
          lora_dropout: options.dropout,
          target_modules: targets as string[] | string,
          bias,
          modules_to_save: saved.length > 0 ? saved : null,
          base_model_name_or_path: base ?? null,
          task_type: "score" in model ? "SEQ_CLS" : "CAUSAL_LM",
          init_lora_weights: options.init === "gaussian" ? "gaussian" : true,
          inference_mode: true,
        };
        writePeftAdapter(directory, { config, tensors: new Map(parameters.map((p) => [p.name, p.storage])) });
      },
      load(model, directory) {
        loadLora(model, directory);
      },
      merge(model, device) {
        mergeLora(model, device);
      },
    };
  },
);

const isLora = (path: string): boolean => /\.lora_[AB]\./.test(path);

const trainsInFull = (path: string, modules: readonly string[]): boolean =>
  modules.some((name) => path.startsWith(`${name}.`) || path.includes(`.${name}.`));

function trainsBias(path: string, bias: "none" | "lora_only" | "all", model: Module): boolean {
  if (bias === "none" || !path.endsWith(".bias")) return false;
  return bias === "all" || model.module(path.slice(0, -".bias".length)) instanceof LoraLinear;
}

/** Puts a LoRA adapter that PEFT or Espalier saved onto a model. Every tensor of the adapter must find its place, and every place its tensor. */
export function loadLora(model: Module, directory: string): { parameters: readonly Parameter[] } {
  const { config, tensors } = readPeftAdapter(directory);
  const unsupported = unsupportedPeftOptions(config);
  if (unsupported.length > 0) {
    throw new EspalierError(
      "adapter-config",
      `${directory}: the adapter uses ${unsupported.map((o) => `${o.option} = ${JSON.stringify(o.value)}`).join(", ")}, which Espalier does not compute: its results would differ from PEFT's.`,
    );
  }
  const modulesToSave = config.modules_to_save ?? [];
  const found = findTargets(model, (config.target_modules ?? []) as string[] | string, modulesToSave);
  model.freeze();
  for (const [path, layer] of found) {
    const { rank, scale } = loraScaling(config, path);
    model.replace(
      path,
      new LoraLinear(layer, { rank, scaling: scale, dropout: config.lora_dropout, initA: kaimingUniform(new Random(0)) }),
    );
  }
  model.assignNames();
  const places = new Map(
    [...model.namedParameters()].filter(
      ([path]) => isLora(path) || trainsInFull(path, modulesToSave) || trainsBias(path, config.bias, model),
    ),
  );
  placeTensors(directory, places, tensors);
  for (const p of places.values()) p.frozen = false;
  return { parameters: [...places.values()] };
}

function placeTensors(directory: string, places: ReadonlyMap<string, Parameter>, tensors: ReadonlyMap<string, Storage>): void {
  const unmatched = [...tensors.keys()].filter((name) => !places.has(name));
  const missing = [...places.keys()].filter((name) => !tensors.has(name));
  if (unmatched.length > 0 || missing.length > 0) {
    const list = (names: string[]) => `${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
    const parts = [
      unmatched.length > 0 &&
        `${unmatched.length} tensors of the adapter match nothing in the model: ${list(unmatched)} (nearest: ${nearestNames(unmatched[0]!, places.keys(), 1).join()})`,
      missing.length > 0 && `the adapter lacks ${list(missing)}`,
    ].filter(Boolean);
    throw new EspalierError("adapter-tensors", `${directory}: the adapter does not fit this model: ${parts.join("; ")}.`);
  }
  for (const [name, parameter] of places) parameter.storage = tensors.get(name)!;
}
