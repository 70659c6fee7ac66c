/** The rotary embedding that a `config.json` asks for: its base, and how it is stretched for contexts longer than the training's. */
import { z } from "zod";
import { EspalierError } from "../graph/index.ts";
import { Rotary, rotaryFrequencies } from "../nn/index.ts";

const parametersSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  factor: z.number().positive().optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: z.number().positive().optional(),
});

/** transformers 5 writes `rope_parameters`; older versions a top-level `rope_theta` and, for long contexts, `rope_scaling`. */
export const ropeFields = {
  rope_theta: z.number().positive().default(10000),
  rope_parameters: parametersSchema.nullish(),
  rope_scaling: parametersSchema.nullish(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  max_position_embeddings: z.int().positive().default(2048),
};

export type RopeConfig = z.output<z.ZodObject<typeof ropeFields>>;
export type RopeParameters = z.output<typeof parametersSchema>;

type Stretch = (frequencies: readonly number[], parameters: RopeParameters, config: RopeConfig) => number[];

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
  default: (frequencies) => [...frequencies],
  /** Positions are divided by a factor (Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation"). */
  linear: (frequencies, parameters) => frequencies.map((f) => f / needed(parameters, "factor")),
  /** Long waves are slowed by the factor, short ones kept, those between blended (Llama Team, "The Llama 3 Herd of Models", as of 3.1). */
  llama3: (frequencies, parameters, config) => {
    const factor = needed(parameters, "factor");
    const [low, high] = [needed(parameters, "low_freq_factor"), needed(parameters, "high_freq_factor")];
    const context = parameters.original_max_position_embeddings ?? config.max_position_embeddings;
    return frequencies.map((f) => {
      const turns = (context * f) / (2 * Math.PI);
      const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
      return f * (kept + (1 - kept) / factor);
    });
  },
};

const ropeType = (parameters: RopeParameters): string => parameters.rope_type ?? parameters.type ?? "default";

const parametersOf = (config: RopeConfig): RopeParameters => config.rope_parameters ?? config.rope_scaling ?? {};

/**
 * @param width of a head
 * @param parameters those of the config by default; a family with several kinds of layers passes each kind's own
 */
export function rotaryOf(config: RopeConfig, width: number, parameters: RopeParameters = parametersOf(config)): Rotary {
  const share = parameters.partial_rotary_factor ?? config.partial_rotary_factor ?? 1;
  const rotated = Math.floor(width * share);
  const frequencies = rotaryFrequencies(rotated, parameters.rope_theta ?? config.rope_theta);
  return new Rotary({
    width: rotated,
    positions: config.max_position_embeddings,
    frequencies: stretches[ropeType(parameters)]!(frequencies, parameters, config),
  });
}

/**
 * The configuration with the base of its rotary embedding at the top level, wherever the file had it.
 *
 * @throws EspalierError `unsupported-rope` for a way of stretching that Espalier does not compute, `bad-config` where it lacks a number
 */
export function withRope<C extends RopeConfig>(config: C, file: string): C {
  const parameters = parametersOf(config);
  const type = ropeType(parameters);
  const stretch = stretches[type];
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
