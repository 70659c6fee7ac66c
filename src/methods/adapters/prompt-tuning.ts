import { z } from "zod";
import type { PeftConfig } from "../../checkpoints/index.ts";
import { EspalierError, Random } from "../../graph/index.ts";
import { type EmbeddingLayer, floats, type Initializer, normal } from "../../nn/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { Graft } from "./graft.ts";
import { loadInto } from "./peft-format.ts";
import { graftedPrompt, graftVirtualTokens, requireOneSubmodule, saveVirtualTokens, virtualTokensOf } from "./prompt-method.ts";
import { decoderOf, PromptedDecoder } from "./virtual-tokens.ts";

const schema = z.strictObject({
  /** Virtual tokens before each sequence; they take their part of the context. */
  tokens: z.int().positive().default(20),
  /** How their embeddings start: N(0, 1), those of random tokens, or those of the tokens of a text, given as ids, repeated or cut to the number. */
  init: z.union([z.enum(["random", "vocabulary"]), z.array(z.int().nonnegative()).min(1)]).default("vocabulary"),
  seed: z.int().default(0),
});

export type PromptTuningOptions = z.input<typeof schema>;

/** Prompt tuning: the embeddings of a few virtual tokens before every sequence are learnt, and nothing else. */
export const promptTuning = defineMethod(
  {
    slug: "prompt-tuning",
    family: "adapters",
    summary: "learn the embeddings of virtual tokens before every sequence",
    paper: {
      title: "The Power of Scale for Parameter-Efficient Prompt Tuning",
      authors: "Lester, Al-Rfou and Constant",
      year: 2021,
    },
    seams: ["weights"],
  },
  schema,
  (options): Method => ({
    name: "prompt-tuning",
    options,
    weights(model) {
      const graft = new Graft(model);
      const decoder = decoderOf(model, "prompt-tuning");
      const prompt = graftedPrompt(graft, [options.tokens, embeddingWidth(decoder.embedding)], initial(decoder.embedding, options));
      graftVirtualTokens(graft, new PromptedDecoder(decoder, prompt, options.tokens));
    },
    async save(directory, context) {
      const { embedding, count } = virtualTokensOf(context.model);
      await saveVirtualTokens(directory, context, {
        peft_type: "PROMPT_TUNING",
        num_virtual_tokens: count,
        token_dim: embeddingWidth(embedding),
        prompt_tuning_init: options.init === "vocabulary" ? "SAMPLE_VOCAB" : "RANDOM",
      });
    },
    load: (model, directory) => loadInto(model, directory, promptTuning),
  }),
  { type: "PROMPT_TUNING", graft: (graft, config) => graftPrompt(graft, config as PeftConfig<"PROMPT_TUNING">, "prompt-tuning") },
);

/** Places for a saved prompt, however it was learnt. */
export function graftPrompt(graft: Graft, config: PeftConfig<"PROMPT_TUNING" | "P_TUNING">, method: string): void {
  requireOneSubmodule(config);
  const decoder = decoderOf(graft.model, method);
  const { num_virtual_tokens: count, modules_to_save } = config;
  const prompt = graftedPrompt(graft, [count, embeddingWidth(decoder.embedding)], normal(new Random(0), 1));
  graftVirtualTokens(graft, new PromptedDecoder(decoder, prompt, count), modules_to_save ?? []);
}

export const embeddingWidth = ({ weight }: EmbeddingLayer): number => weight.shape[1]!;

function initial(embedding: EmbeddingLayer, { init, seed, tokens }: z.output<typeof schema>): Initializer {
  const random = new Random(seed);
  if (init === "random") return normal(random, 1);
  const { weight, scale } = embedding;
  const [vocabulary, width] = weight.shape as [number, number];
  const outside = init === "vocabulary" ? undefined : init.find((id) => id >= vocabulary);
  if (outside !== undefined)
    throw new EspalierError("bad-option", `prompt-tuning: init names the token ${outside}; the model's vocabulary has ${vocabulary}.`);
  return (shape) => {
    const table = readStorage(weight.storage, "float32") as Float32Array;
    const ids = Array.from({ length: tokens }, (_, i) =>
      init === "vocabulary" ? Math.floor(random.uniform() * vocabulary) : init[i % init.length]!,
    );
    return floats(
      shape,
      Float32Array.from({ length: tokens * width }, (_, i) => scale * table[ids[Math.floor(i / width)]! * width + (i % width)]!),
    );
  };
}
