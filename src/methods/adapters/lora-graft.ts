import { loraScaling, type PeftConfig } from "../../checkpoints/index.ts";
import { EspalierError, Random } from "../../graph/index.ts";
import { Embedding, kaimingUniform, LinearLayer, type Module, normal } from "../../nn/index.ts";
import { takeOwn, trainBiases, trainInFull, untieFor } from "./full-training.ts";
import type { Graft } from "./graft.ts";
import { LoraEmbedding } from "./lora-embedding.ts";
import { LoraLinear } from "./lora-linear.ts";
import { endsWithName, findTargets, isSelected, type Selection } from "./targets.ts";
import { TokenEmbedding } from "./token-embedding.ts";

/** How the updates of a new adapter start. */
export interface LoraStart {
  seed: number;
  init: "kaiming" | "gaussian";
}

/** Puts low-rank updates where a PEFT configuration wants them, and takes what it trains beside them. Without a start, for values that follow. */
export function graftLora(graft: Graft, config: PeftConfig<"LORA">, start?: LoraStart): void {
  const { model } = graft;
  const selection: Selection = {
    targets: config.target_modules ?? [],
    exclude: config.exclude_modules,
    full: config.modules_to_save ?? [],
    layers: config.layers_to_transform,
    layersPattern: config.layers_pattern,
    kinds: "linear or embedding",
    lenient: start === undefined,
  };
  // Neither embedding nor head is a Linear that "all-linear" means.
  if (selection.targets !== "all-linear") untieFor(graft, isSelected(selection), "the adapter changes one of them and not the other");
  for (const [i, [path, layer]] of findTargets(model, selection).entries()) {
    const replacement = adapted(path, layer, config, start ?? { seed: 0, init: "kaiming" }, i);
    graft.replace(path, replacement);
    takeOwn(graft, path, replacement);
  }
  for (const [path, tokens] of trainedTokens(model, config)) {
    const layer = model.module(path);
    if (!(layer instanceof Embedding))
      throw new EspalierError(
        "bad-option",
        `trainable_token_indices names "${path}", which is no Embedding of its own, or is adapted already.`,
      );
    const replacement = new TokenEmbedding(layer, tokens);
    graft.replace(path, replacement);
    takeOwn(graft, path, replacement);
  }
  trainInFull(graft, config.modules_to_save ?? []);
  trainBiases(graft, config.bias);
}

function adapted(path: string, layer: LinearLayer | Embedding, config: PeftConfig<"LORA">, start: LoraStart, i: number) {
  const { rank, scale: scaling } = loraScaling(config, path);
  const random = new Random(start.seed, i);
  const decomposed = config.use_dora ?? false;
  if (!(layer instanceof LinearLayer)) return new LoraEmbedding(layer, { rank, scaling, decomposed, initB: normal(random, 1) });
  const bias = config.lora_bias ?? false;
  if (bias && decomposed)
    throw new EspalierError(
      "bad-option",
      "lora: an update with a bias (lora_bias) cannot be weight-decomposed (use_dora). Choose one of them.",
    );
  const initA = start.init === "kaiming" ? kaimingUniform(random) : normal(random, 1 / rank);
  return new LoraLinear(layer, { rank, scaling, dropout: config.lora_dropout, initA, bias, decomposed });
}

/** The embeddings of which rows are trained, by their paths. */
function trainedTokens(
  model: Module,
  { trainable_token_indices: tokens }: PeftConfig<"LORA">,
): [path: string, tokens: readonly number[]][] {
  if (!tokens) return [];
  const embeddings = [...model.namedModules()].filter(([, module]) => module instanceof Embedding).map(([path]) => path);
  if (Array.isArray(tokens)) {
    const { decoder } = model as { decoder?: { embedding: Module } };
    const path = decoder?.embedding.path ?? embeddings[0];
    return path === undefined ? [] : [[path, tokens]];
  }
  return Object.entries(tokens).map(([name, rows]) => [embeddings.find((path) => endsWithName(path, name)) ?? name, rows]);
}
