import { z } from "zod";
import { type PeftConfig, type PeftConfigInput, parsePeftConfig, writePeftAdapter } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { LinearLayer, type Module } from "../../nn/index.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { classifierHeads, takeOwn, trainInFull, untieFor, wholeModules } from "./full-training.ts";
import { Graft } from "./graft.ts";
import { Ia3Linear } from "./ia3-linear.ts";
import { mergeAdapters } from "./merge.ts";
import { loadInto, savedParts, taskType } from "./peft-format.ts";
import { findTargets, isSelected, matchesNames, type Selection } from "./targets.ts";

const names = z.union([z.array(z.string()).min(1), z.string()]);

const schema = z.strictObject({
  /** Endings of the paths of the Linears whose outputs are scaled (keys and values), or a regular expression for the whole path. */
  targets: names.default(["k_proj", "v_proj", "down_proj"]),
  /** Those of the targets whose inputs are scaled instead: the second Linear of the feed-forward. */
  feedForward: names.default(["down_proj"]),
  /** Targets left out. */
  exclude: names.optional(),
  /** Modules trained in full and saved with the adapter, such as a classification head. Those of classifiers need not be there; a new head is always taken. */
  modulesToSave: z.array(z.string()).default([...classifierHeads]),
});

export type Ia3Options = z.input<typeof schema>;

/**
 * (IA)³: keys, values and the activations of the feed-forward are scaled by learnt vectors, a few thousand numbers in all. They start at one, so that
 * the adapted model starts as the base model.
 */
export const ia3 = defineMethod(
  {
    slug: "ia3",
    family: "adapters",
    summary: "learn vectors that scale keys, values and the feed-forward's activations",
    paper: {
      title: "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
      authors: "Liu, Tam, Muqeeth, Mohta, Huang, Bansal and Raffel",
      year: 2022,
    },
    seams: ["weights"],
  },
  schema,
  (options): Method => {
    const plain = parsePeftConfig<"IA3">(
      {
        peft_type: "IA3",
        target_modules: options.targets,
        feedforward_modules: options.feedForward,
        exclude_modules: options.exclude ?? null,
        modules_to_save: options.modulesToSave,
        init_ia3_weights: true,
        inference_mode: true,
      },
      "ia3",
    );
    const configFor = (model: Module) => ({ ...plain, modules_to_save: wholeModules(model, options.modulesToSave) });
    return {
      name: "ia3",
      options,
      weights(model) {
        graftIa3(new Graft(model), configFor(model), false);
      },
      save(directory, { base, parameters, model }) {
        const config = configFor(model);
        const parts = savedParts(model, parameters, config);
        const adapted = [...model.namedModules()].flatMap(([, module]) => (module instanceof Ia3Linear ? [module.base] : []));
        const complete: PeftConfigInput<"IA3"> = {
          ...config,
          ...parts.config,
          base_model_name_or_path: base ?? null,
          task_type: taskType(model),
          fan_in_fan_out: adapted.some((layer) => layer instanceof LinearLayer && layer.layout === "in-out"),
        };
        writePeftAdapter(directory, { config: complete, tensors: parts.tensors });
      },
      load: (model, directory) => loadInto(model, directory, ia3),
      merge: (model, device) => void mergeAdapters(model, device),
    };
  },
  { type: "IA3", graft: (graft, config) => graftIa3(graft, config as PeftConfig<"IA3">, true) },
);

function graftIa3(graft: Graft, config: PeftConfig<"IA3">, lenient: boolean): void {
  const selection: Selection = {
    targets: config.target_modules ?? [],
    exclude: config.exclude_modules,
    full: config.modules_to_save ?? [],
    lenient,
  };
  // Neither embedding nor head is a Linear that "all-linear" means.
  if (selection.targets !== "all-linear") untieFor(graft, isSelected(selection), "the adapter changes one of them and not the other");
  const isFeedForward = matchesNames(config.feedforward_modules, "feedforward_modules");
  const found = findTargets(graft.model, selection);
  for (const [path, layer] of found) {
    if (!(layer instanceof LinearLayer)) throw new EspalierError("no-target", `ia3: "${path}" is no Linear.`);
    const replacement = new Ia3Linear(layer, isFeedForward(path) ? "inputs" : "outputs");
    graft.replace(path, replacement);
    takeOwn(graft, path, replacement);
  }
  trainInFull(graft, config.modules_to_save ?? []);
}
