/** Every model family, and how `config.json` picks one. */
import { EspalierError, nearestNames, show } from "../../graph/index.ts";
import { type Family, type Task, taskNames } from "../family.ts";
import { bart } from "./bart.ts";
import { bert } from "./bert.ts";
import { bloom } from "./bloom.ts";
import { clip } from "./clip.ts";
import { dinov2 } from "./dinov2.ts";
import { distilbert } from "./distilbert.ts";
import { electra } from "./electra.ts";
import { gemma } from "./gemma.ts";
import { gptNeox } from "./gpt-neox.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { olmo2 } from "./olmo2.ts";
import { opt } from "./opt.ts";
import { phi3 } from "./phi3.ts";
import { qwen } from "./qwen.ts";
import { roberta } from "./roberta.ts";
import { t5 } from "./t5.ts";
import { deit, vit } from "./vit.ts";
import { hubert, wav2vec2 } from "./wav2vec2.ts";
import { whisper } from "./whisper.ts";

export const families: readonly Family[] = [
  llama,
  qwen,
  gemma,
  olmo2,
  phi3,
  gpt2,
  gptNeox,
  opt,
  bloom,
  bert,
  roberta,
  distilbert,
  electra,
  t5,
  bart,
  vit,
  deit,
  dinov2,
  clip,
  wav2vec2,
  hubert,
  whisper,
];

/** What well-known relatives have that no family here can say: running them as their nearest one would give wrong numbers without a word. */
const differences: Readonly<Record<string, { nearest: string; differs: string }>> = {
  mixtral: { nearest: "mistral", differs: "its feed-forward is a mixture of experts" },
  qwen2_moe: { nearest: "qwen2", differs: "its feed-forward is a mixture of experts" },
  qwen3_moe: { nearest: "qwen3", differs: "its feed-forward is a mixture of experts" },
  smollm3: { nearest: "llama", differs: "every fourth layer has no rotary embedding" },
  granite: { nearest: "llama", differs: "it scales the embedding, the residuals, the scores and the logits" },
  cohere: { nearest: "llama", differs: "it has parallel blocks, LayerNorm and scaled logits" },
  phi: { nearest: "llama", differs: "it has LayerNorm, biases, partial rotary embedding and parallel blocks" },
  gemma: { nearest: "llama", differs: "it scales the embedding, adds one to the norms' weights and uses gelu" },
  falcon: { nearest: "gpt_neox", differs: "its projections are fused in another order" },
  mpt: { nearest: "bloom", differs: "it has no biases and other norms" },
  gptj: { nearest: "gpt_neox", differs: "its rotary embedding interleaves the pairs" },
  deberta: { nearest: "bert", differs: "its attention is disentangled by relative position" },
  "deberta-v2": { nearest: "bert", differs: "its attention is disentangled by relative position" },
  albert: { nearest: "bert", differs: "its layers share their weights" },
  modernbert: { nearest: "bert", differs: "it has rotary embedding, gated feed-forward and local layers" },
  mbart: { nearest: "bart", differs: "it norms before the blocks" },
  pegasus: { nearest: "bart", differs: "it norms before the blocks and has fixed positions" },
  swin: { nearest: "vit", differs: "its attention sees shifted windows" },
};

/** @throws EspalierError `unsupported-model`, naming the nearest family and what differs */
export function familyOf(json: unknown, file: string): Family {
  const type = (json as { model_type?: unknown }).model_type;
  const types = families.flatMap((family) => family.modelTypes);
  if (typeof type !== "string") {
    throw new EspalierError(
      "unsupported-model",
      `${file}: "model_type" is ${type === undefined ? "missing" : show(type)}, so the architecture is not known. If you know it, add it to the file; Espalier runs ${types.join(", ")}.`,
    );
  }
  const found = families.find((family) => family.modelTypes.includes(type));
  if (found) return found;
  const [similar] = nearestNames(type, [...Object.keys(differences), ...types], 1);
  const known = differences[type] ?? (similar && type.startsWith(similar) ? differences[similar] : undefined);
  const nearest = known && types.includes(known.nearest) ? known.nearest : nearestNames(type, types, 1)[0]!;
  throw new EspalierError(
    "unsupported-model",
    `${file}: Espalier does not run the model type ${show(type)} yet; the nearest that it runs is "${nearest}" (${families.find((f) => f.modelTypes.includes(nearest))!.models}). What differs: ${known?.differs ?? "how it differs is not known"}. Supported: ${types.join(", ")}.`,
  );
}

/** A family's builder for a task, or an error that says what the family can do. */
export function builderOf<T extends Task>(family: Family, task: T, file: string): NonNullable<Family[T]> {
  const builder = family[task];
  if (builder) return builder as NonNullable<Family[T]>;
  const able = (Object.keys(taskNames) as Task[]).filter((t) => family[t]).map((t) => taskNames[t]);
  throw new EspalierError(
    "unsupported-task",
    `${file}: a ${family.name} checkpoint cannot be used as ${taskNames[task]}; Espalier runs it as ${able.join(", ")}.`,
  );
}
