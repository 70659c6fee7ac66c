import { z } from "zod";
import type { PeftConfig } from "../../checkpoints/index.ts";
import { EspalierError, Random, trace } from "../../graph/index.ts";
import type { DecoderModel } from "../../models/causal-lm.ts";
import { normal, zeros } from "../../nn/index.ts";
import type { Method } from "../../train/method.ts";
import { defineMethod } from "../define.ts";
import { Graft } from "./graft.ts";
import { loadInto } from "./peft-format.ts";
import { PrefixEncoder } from "./prompt-encoders.ts";
import { graftedPrompt, graftVirtualTokens, requireOneSubmodule, saveVirtualTokens, virtualTokensOf } from "./prompt-method.ts";
import { embeddingWidth } from "./prompt-tuning.ts";
import { decoderOf, PrefixedDecoder } from "./virtual-tokens.ts";

const schema = z.strictObject({
  /** Virtual tokens before each sequence; they take their part of the context. */
  tokens: z.int().positive().default(20),
  /** Whether keys and values are made by a small network while training. It is not saved. */
  projection: z.boolean().default(false),
  /** Hidden width of the network. Default: the model's. */
  hidden: z.int().positive().optional(),
  /** Keys and values start as N(0, 1), or as the network makes them; or at zero, which only takes attention from the real tokens. */
  init: z.enum(["random", "zero"]).default("random"),
  seed: z.int().default(0),
});

export type PrefixTuningOptions = z.input<typeof schema>;

/** Prefix tuning: every layer sees learnt keys and values before those of the sequence. */
export const prefixTuning = defineMethod(
  {
    slug: "prefix-tuning",
    family: "adapters",
    summary: "learn keys and values that every layer sees before the sequence",
    paper: { title: "Prefix-Tuning: Optimizing Continuous Prompts for Generation", authors: "Li and Liang", year: 2021 },
    seams: ["weights"],
  },
  schema,
  (options): Method => ({
    name: "prefix-tuning",
    options,
    weights(model) {
      const graft = new Graft(model);
      const decoder = decoderOf(model, "prefix-tuning");
      const shape = cacheShape(decoder);
      const { tokens, projection, init, seed } = options;
      const width = valuesOf(shape);
      const embedded = embeddingWidth(decoder.embedding);
      const prompt = projection
        ? new PrefixEncoder({ tokens, width, hidden: options.hidden ?? embedded, seed, embeddingWidth: embedded, zero: init === "zero" })
        : graftedPrompt(graft, [tokens, width], init === "zero" ? zeros : normal(new Random(seed), 1));
      graftVirtualTokens(graft, new PrefixedDecoder(decoder, prompt, tokens, shape));
    },
    async save(directory, context) {
      const { decoder, count } = virtualTokensOf(context.model);
      const { layers, kvHeads, width } = cacheShape(decoder);
      await saveVirtualTokens(directory, context, {
        peft_type: "PREFIX_TUNING",
        num_virtual_tokens: count,
        num_layers: layers,
        num_attention_heads: kvHeads,
        token_dim: kvHeads * width,
        encoder_hidden_size: options.hidden ?? embeddingWidth(decoder.embedding),
        prefix_projection: options.projection,
      });
    },
    load: (model, directory) => loadInto(model, directory, prefixTuning),
  }),
  { type: "PREFIX_TUNING", graft: (graft, config) => graftPrefix(graft, config as PeftConfig<"PREFIX_TUNING">) },
);

function graftPrefix(graft: Graft, config: PeftConfig<"PREFIX_TUNING">): void {
  requireOneSubmodule(config);
  const decoder = decoderOf(graft.model, "prefix-tuning");
  const shape = cacheShape(decoder);
  const { num_virtual_tokens: count, modules_to_save, num_attention_heads: heads } = config;
  if (heads !== null && heads !== undefined && heads !== shape.kvHeads)
    throw new EspalierError(
      "adapter-tensors",
      `The prefix was made for ${heads} key/value heads, and the model has ${shape.kvHeads}: it belongs to another model.`,
    );
  const prompt = graftedPrompt(graft, [count, valuesOf(shape)], zeros);
  graftVirtualTokens(graft, new PrefixedDecoder(decoder, prompt, count, shape), modules_to_save ?? []);
}

interface CacheShape {
  layers: number;
  kvHeads: number;
  width: number;
}

const valuesOf = ({ layers, kvHeads, width }: CacheShape): number => layers * 2 * kvHeads * width;

/** The keys and values of a token, as the model itself says. */
function cacheShape(decoder: DecoderModel): CacheShape {
  let shape: CacheShape | undefined;
  trace({ ids: { dtype: "int64", shape: [1, 1] } }, ({ ids }) => {
    const { hidden, present } = decoder.forward({ ids });
    const shapes = new Set(present.flatMap(({ key, value }) => [`${key.shape}`, `${value.shape}`]));
    if (shapes.size !== 1)
      throw new EspalierError(
        "unsupported-model",
        "prefix-tuning needs layers whose keys and values all have one shape, which this model's have not.",
      );
    const [, kvHeads, , width] = present[0]!.key.shape as number[];
    shape = { layers: present.length, kvHeads: kvHeads!, width: width! };
    return { hidden };
  });
  return shape!;
}
