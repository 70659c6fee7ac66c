/** The rotary embedding that a `config.json` asks for: its base, and how it is stretched for contexts longer than the training's. */
import { z } from "zod";
import { EspalierError } from "../graph/index.ts";
import { Rotary, rotaryFrequencies } from "../nn/index.ts";
import { size } from "./read-config.ts";

export const ropeParametersSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  factor: z.number().positive().optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: z.number().positive().optional(),
  short_factor: z.array(z.number().positive()).optional(),
  attention_factor: z.number().positive().nullish(),
});

/** transformers 5 writes `rope_parameters`; older versions a top-level `rope_theta` and, for long contexts, `rope_scaling`. */
export const ropeFields = {
  rope_theta: z.number().positive().default(10000),
  rope_parameters: ropeParametersSchema.nullish(),
  rope_scaling: ropeParametersSchema.nullish(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  max_position_embeddings: size.default(2048),
  original_max_position_embeddings: size.optional(),
};

export type RopeConfig = z.output<z.ZodObject<typeof ropeFields>>;
export type RopeParameters = z.output<typeof ropeParametersSchema>;

/** What stretching makes of the frequencies. */
interface Stretched {
  frequencies: readonly number[];
  /** Factor on cosines and sines. */
  scale?: number;
  /** Positions for which that is right, where they are fewer than the model's. */
  positions?: number;
}

type Stretch = (frequencies: readonly number[], parameters: RopeParameters, config: RopeConfig) => Stretched;

/** A parameter that the stretching needs, or an error that names it. */
function needed(parameters: RopeParameters, key: keyof RopeParameters): number {
  const value = parameters[key];
  if (typeof value === "number") return value;
  throw new EspalierError(
    "bad-config",
    `The rotary embedding "${ropeType(parameters)}" needs "${String(key)}" in "rope_parameters" or "rope_scaling".`,
  );
}

const stretches: Readonly<Record<string, Stretch>> = {
  default: (frequencies) => ({ frequencies }),
  /** Positions are divided by a factor (Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation"). */
  linear: (frequencies, parameters) => ({ frequencies: frequencies.map((f) => f / needed(parameters, "factor")) }),
  /** Long waves are slowed by the factor, short ones kept, those between blended (Llama Team, "The Llama 3 Herd of Models", as of 3.1). */
  llama3: (frequencies, parameters, config) => {
    const factor = needed(parameters, "factor");
    const [low, high] = [needed(parameters, "low_freq_factor"), needed(parameters, "high_freq_factor")];
    const context = parameters.original_max_position_embeddings ?? config.max_position_embeddings;
    const slowed = frequencies.map((f) => {
      const turns = (context * f) / (2 * Math.PI);
      const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
      return f * (kept + (1 - kept) / factor);
    });
    return { frequencies: slowed };
  },
  /**
   * A factor per frequency (Ding et al., "LongRoPE"). There are two lists, for short and for long sequences; Espalier computes with the short one, so
   * that the context is the one before stretching.
   */
  longrope: (frequencies, parameters, config) => {
    const factors = parameters.short_factor ?? [];
    const original = parameters.original_max_position_embeddings ?? config.original_max_position_embeddings;
    if (factors.length < frequencies.length || original === undefined)
      throw new EspalierError(
        "bad-config",
        `The rotary embedding "longrope" needs "short_factor" with ${frequencies.length} numbers and "original_max_position_embeddings".`,
      );
    const factor = parameters.factor ?? config.max_position_embeddings / original;
    const scale = parameters.attention_factor ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)));
    return { frequencies: frequencies.map((f, i) => f / factors[i]!), scale, positions: original };
  },
};

/** The first files of Phi-3 call "longrope" "su". */
function ropeType(parameters: RopeParameters): string {
  const type = parameters.rope_type ?? parameters.type ?? "default";
  return type === "su" ? "longrope" : type;
}

const parametersOf = (config: RopeConfig): RopeParameters => config.rope_parameters ?? config.rope_scaling ?? {};

/** Known heads have 512 at most, and there is an angle for each two. */
const widestHead = 2 ** 16;

/**
 * @param width of a head
 * @param parameters those of the config by default; a family with several kinds of layers passes each kind's own
 */
export function rotaryOf(config: RopeConfig, width: number, parameters: RopeParameters = parametersOf(config)): Rotary {
  if (width > widestHead)
    throw new EspalierError(
      "bad-config",
      `The width of a head, ${width}, is more than any model has (${widestHead}). Fetch or write the file again.`,
    );
  const rotated = Math.floor(width * (parameters.partial_rotary_factor ?? config.partial_rotary_factor ?? 1));
  const { frequencies, scale, positions } = stretched(
    rotaryFrequencies(rotated, parameters.rope_theta ?? config.rope_theta),
    parameters,
    config,
  );
  return new Rotary({ width: rotated, positions: positions ?? config.max_position_embeddings, frequencies, scale });
}

const stretched: Stretch = (frequencies, parameters, config) => stretches[ropeType(parameters)]!(frequencies, parameters, config);

/** Tokens for which the rotary embedding is right. */
export const ropeContext = (config: RopeConfig): number =>
  stretched([1], parametersOf(config), config).positions ?? config.max_position_embeddings;

/**
 * The configuration with the base of its rotary embedding at the top level, wherever the file had it.
 *
 * @throws EspalierError `unsupported-rope` for a way of stretching that Espalier does not compute, `bad-config` where it lacks a number
 */
export function withRope<C extends RopeConfig>(config: C, file: string, parameters = parametersOf(config)): C {
  const type = ropeType(parameters);
  const stretch = Object.hasOwn(stretches, type) ? stretches[type] : undefined;
  if (!stretch) {
    throw new EspalierError(
      "unsupported-rope",
      `${file}: asks for the rotary embedding ${JSON.stringify(type)}, which stretches positions for long contexts; Espalier has ${Object.keys(stretches).join(", ")}, and with another one the model would compute other numbers. Choose a checkpoint without it.`,
    );
  }
  try {
    stretch([1], parameters, config);
  } catch (cause) {
    if (!(cause instanceof EspalierError)) throw cause;
    throw new EspalierError(cause.code, `${file}: ${cause.message}`, { cause });
  }
  return { ...config, rope_theta: parameters.rope_theta ?? config.rope_theta };
}
