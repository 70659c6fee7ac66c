import { z } from "zod";
import type { PeftConfig } from "../../checkpoints/index.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { Graft } from "./graft.ts";
import { loadInto } from "./peft-format.ts";
import { LstmPromptEncoder, MlpPromptEncoder } from "./prompt-encoders.ts";
import { graftVirtualTokens, saveVirtualTokens, virtualTokensOf } from "./prompt-method.ts";
import { embeddingWidth, graftPrompt } from "./prompt-tuning.ts";
import { decoderOf, PromptedDecoder } from "./virtual-tokens.ts";

const schema = z.strictObject({
  /** Virtual tokens before each sequence; they take their part of the context. */
  tokens: z.int().positive().default(20),
  /** The network that makes their embeddings while training. */
  encoder: z.enum(["mlp", "lstm"]).default("mlp"),
  /** Its hidden width. Default: the model's. */
  hidden: z.int().positive().optional(),
  /** Layers of the LSTM. */
  layers: z.int().positive().default(2),
  seed: z.int().default(0),
});

export type PTuningOptions = z.input<typeof schema>;

/** P-tuning: virtual tokens before every sequence, made by a small network that is learnt with them. The tokens are saved, and the network is not. */
export const pTuning = defineMethod(
  {
    slug: "p-tuning",
    family: "adapters",
    summary: "learn virtual tokens through a prompt encoder",
    paper: { title: "GPT Understands, Too", authors: "Liu, Zheng, Du, Ding, Qian, Yang and Tang", year: 2021 },
    seams: ["weights"],
  },
  schema,
  (options): Method => ({
    name: "p-tuning",
    options,
    weights(model) {
      const decoder = decoderOf(model, "p-tuning");
      const width = embeddingWidth(decoder.embedding);
      const { tokens, seed, hidden = width } = options;
      const sizes = { tokens, width, hidden, seed };
      const encoder = options.encoder === "mlp" ? new MlpPromptEncoder(sizes) : new LstmPromptEncoder({ ...sizes, layers: options.layers });
      graftVirtualTokens(new Graft(model), new PromptedDecoder(decoder, encoder, tokens));
    },
    async save(directory, context) {
      const { embedding, count } = virtualTokensOf(context.model);
      const width = embeddingWidth(embedding);
      await saveVirtualTokens(directory, context, {
        peft_type: "P_TUNING",
        num_virtual_tokens: count,
        token_dim: width,
        encoder_reparameterization_type: options.encoder.toUpperCase(),
        encoder_hidden_size: options.hidden ?? width,
        encoder_num_layers: options.layers,
      });
    },
    load: (model, directory) => loadInto(model, directory, pTuning),
  }),
  { type: "P_TUNING", graft: (graft, config) => graftPrompt(graft, config as PeftConfig<"P_TUNING">, "p-tuning") },
);
