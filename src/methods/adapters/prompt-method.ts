/** What the methods of virtual tokens share: how they go onto a model, and how PEFT saves them. */
import { type PeftConfig, type PeftConfigInput, writePeftAdapter } from "../../checkpoints/index.ts";
import { EspalierError, type Storage, trace } from "../../graph/index.ts";
import { type Initializer, type Module, Parameter } from "../../nn/index.ts";
import type { SaveContext } from "../../train/method.ts";
import { classifierHeads, trainInFull } from "./full-training.ts";
import type { Graft } from "./graft.ts";
import { taskType } from "./peft-format.ts";
import { LearntPrompt, VirtualTokenDecoder } from "./virtual-tokens.ts";

/** PEFT's name for the values of virtual tokens, however they were made. */
const valuesName = "prompt_embeddings";

/** A prompt of loaded or freshly made values, taken into the adapter. */
export function graftedPrompt(graft: Graft, shape: readonly [count: number, width: number], init: Initializer): LearntPrompt {
  const values = new Parameter(shape, () => init(shape));
  graft.places.set(valuesName, values);
  return new LearntPrompt(values);
}

/** Puts a decoder with virtual tokens in the place of the plain one, and takes the modules that are trained in full. */
export function graftVirtualTokens(graft: Graft, decoder: VirtualTokenDecoder, full: readonly string[] = classifierHeads): void {
  graft.replace(decoder.decoder.path, decoder);
  trainInFull(graft, full);
}

/** Virtual tokens of a sequence-to-sequence model, which has two places for them, are not read. */
export function requireOneSubmodule({
  num_transformer_submodules: count,
  peft_type,
}: PeftConfig<"PROMPT_TUNING" | "P_TUNING" | "PREFIX_TUNING">): void {
  if (count === null || count === undefined || count === 1) return;
  throw new EspalierError(
    "adapter-config",
    `num_transformer_submodules is ${count}: ${peft_type} of sequence-to-sequence models is not computed. Use LoRA or IA3 for them.`,
  );
}

/** Writes the values of the virtual tokens, which an encoder's are computed for, and the modules that were trained in full. */
export async function saveVirtualTokens(
  directory: string,
  { model, base, parameters, device }: SaveContext,
  config: PeftConfigInput<"PROMPT_TUNING" | "P_TUNING" | "PREFIX_TUNING">,
): Promise<void> {
  const { prompt } = virtualTokensOf(model);
  const own = new Set(prompt.parameters());
  const full = parameters.filter((p) => !own.has(p) && classifierHeads.some((name) => p.name.startsWith(`${name}.`)));
  const tensors = new Map<string, Storage>(full.map((p) => [p.name, p.storage]));
  if (prompt instanceof LearntPrompt) tensors.set(valuesName, prompt.values.storage);
  else {
    if (!device)
      throw new EspalierError(
        "missing-device",
        `${config.peft_type}: saving computes what the encoder makes of its parameters. Give save a device.`,
      );
    const program = await device.compile(trace({}, () => ({ values: prompt.forward() })));
    try {
      const { values } = await program.run({});
      tensors.set(valuesName, { kind: "memory", ...values!, data: values!.data.slice() });
    } finally {
      await program.dispose();
    }
  }
  const saved = classifierHeads.filter((name) => full.some((p) => p.name.startsWith(`${name}.`)));
  writePeftAdapter(directory, {
    config: {
      ...config,
      num_transformer_submodules: 1,
      modules_to_save: saved.length > 0 ? saved : null,
      base_model_name_or_path: base ?? null,
      task_type: taskType(model),
      inference_mode: true,
    },
    tensors,
  });
}

/** The decoder of a model that has virtual tokens. */
export function virtualTokensOf(model: Module): VirtualTokenDecoder {
  for (const [, module] of model.namedModules()) if (module instanceof VirtualTokenDecoder) return module;
  throw new EspalierError("no-adapter", "The model has no virtual tokens to save: its adapter was taken off, or another model was given.");
}
