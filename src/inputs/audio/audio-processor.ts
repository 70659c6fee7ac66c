/** Sounds → what a speech model reads, as the checkpoint's `preprocessor_config.json` says. Nothing here imports from Node. */
import { z } from "zod";
import { EspalierError, show } from "../../graph/errors.ts";
import { type HostTensor, hostTensor } from "../../runtime/host-tensor.ts";
import { logMelSpectrogram } from "./log-mel.ts";
import { resample, type Sound } from "./sound.ts";

/** Sounds of any rate and length → the inputs of one batch, under the names that transformers gives them. */
export interface AudioProcessor {
  /** What sounds are resampled to. */
  readonly sampleRate: number;
  /** @throws EspalierError `empty-batch`, `audio-short` for a sound without a sample */
  process(sounds: readonly Sound[]): Record<string, HostTensor>;
}

const size = (largest: number) => z.int().positive().max(largest);
const rate = z.int().min(1000).max(1_000_000);

/** The transform costs what the largest prime factor of its length is. */
const isSmooth = (n: number): boolean => n > 0 && [2, 3, 5, 7].reduce((rest, prime) => divided(rest, prime), n) === 1;
const divided = (n: number, prime: number): number => (n % prime === 0 ? divided(n / prime, prime) : n);

const schemas = {
  WhisperFeatureExtractor: z
    .looseObject({
      feature_size: size(1024).default(80),
      sampling_rate: rate.default(16000),
      hop_length: size(1 << 16).default(160),
      chunk_length: size(3600).default(30),
      n_fft: size(1 << 14)
        .min(16)
        .refine(isSmooth, "it must be a product of 2, 3, 5 and 7")
        .default(400),
      padding_value: z.literal(0).default(0),
      dither: z.literal(0).default(0),
    })
    .refine((c) => c.hop_length * 8 >= c.n_fft, { path: ["hop_length"], message: 'it must be an eighth of "n_fft" or more' })
    .refine((c) => c.chunk_length * c.sampling_rate <= 2 ** 26, { path: ["chunk_length"], message: "a chunk has more than 2^26 samples" })
    .refine((c) => c.chunk_length * c.sampling_rate > c.n_fft, { path: ["chunk_length"], message: 'a chunk is shorter than "n_fft"' }),
  Wav2Vec2FeatureExtractor: z.looseObject({
    feature_size: z.literal(1).default(1),
    sampling_rate: rate.default(16000),
    padding_value: z.number().min(-1e6).max(1e6).default(0),
    padding_side: z.literal("right").default("right"),
    return_attention_mask: z.boolean().default(false),
    do_normalize: z.boolean().default(true),
  }),
} as const;

/**
 * @param json the parsed `preprocessor_config.json` of a Whisper or wav2vec 2.0 (HuBERT) feature extractor
 * @param file named in errors
 * @throws EspalierError `unsupported-processor`, `bad-config`
 */
export function audioProcessor(json: unknown, file = "preprocessor_config.json"): AudioProcessor {
  const kind = (json as { feature_extractor_type?: unknown }).feature_extractor_type;
  if (kind === "WhisperFeatureExtractor") return logMelProcessor(parse(schemas[kind], json, file));
  if (kind === "Wav2Vec2FeatureExtractor") return waveformProcessor(parse(schemas[kind], json, file));
  throw new EspalierError(
    "unsupported-processor",
    `${file}: "feature_extractor_type" is ${kind === undefined ? "missing" : show(kind)}; Espalier has ${Object.keys(schemas).join(", ")}.`,
  );
}

function parse<T extends z.ZodType>(schema: T, json: unknown, file: string): z.output<T> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path, message }) => `  "${path.join(".")}" is ${show((json as Record<string, unknown>)[String(path[0])])}: ${message}`,
  );
  throw new EspalierError("bad-config", `${file} asks for what Espalier does not do with a sound:\n${problems.join("\n")}`);
}

/** The sounds at the model's rate. */
function prepared(sounds: readonly Sound[], sampleRate: number): Float32Array[] {
  if (sounds.length === 0) throw new EspalierError("empty-batch", "There is no sound to process. Give at least one.");
  return sounds.map((sound, i) => {
    if (sound.samples.length > 0) return resample(sound, sampleRate).samples;
    throw new EspalierError("audio-short", `Sound ${i + 1} of the batch has no samples.`);
  });
}

/** `input_features` float32 [batch, bins, frames]: each sound is cut or filled with silence to the length of a chunk. */
function logMelProcessor(config: z.output<typeof schemas.WhisperFeatureExtractor>): AudioProcessor {
  const { feature_size: bins, sampling_rate: sampleRate, hop_length: hopLength, n_fft: frameLength } = config;
  const length = config.chunk_length * sampleRate;
  return {
    sampleRate,
    process(sounds) {
      const spectrograms = prepared(sounds, sampleRate).map((samples) => {
        const chunk = new Float32Array(length);
        chunk.set(samples.subarray(0, length));
        return logMelSpectrogram(chunk, { bins, sampleRate, hopLength, frameLength });
      });
      const values = new Float32Array(sounds.length * spectrograms[0]!.length);
      for (const [i, spectrogram] of spectrograms.entries()) values.set(spectrogram, i * spectrogram.length);
      return { input_features: hostTensor("float32", [sounds.length, bins, spectrograms[0]!.length / bins], values) };
    },
  };
}

/** Added to a variance, so that silence is divided by something. */
const epsilon = 1e-7;

/** (x − mean) / deviation over the first `length` samples. */
function normalize(row: Float32Array, length: number): void {
  const own = row.subarray(0, length);
  const mean = own.reduce((sum, x) => sum + x, 0) / length;
  const deviation = Math.sqrt(own.reduce((sum, x) => sum + (x - mean) ** 2, 0) / length + epsilon);
  for (let i = 0; i < length; i++) own[i] = (own[i]! - mean) / deviation;
}

/**
 * `input_values` float32 [batch, time], padded on the right to the longest, and `attention_mask` int64 [batch, time] where the checkpoint was trained
 * with one. Without a mask the padding counts as sound in the normalisation, as in transformers.
 */
function waveformProcessor(config: z.output<typeof schemas.Wav2Vec2FeatureExtractor>): AudioProcessor {
  const { sampling_rate: sampleRate, padding_value: padding, return_attention_mask: masked } = config;
  return {
    sampleRate,
    process(sounds) {
      const waves = prepared(sounds, sampleRate);
      const time = Math.max(...waves.map((wave) => wave.length));
      const values = new Float32Array(waves.length * time).fill(padding);
      const mask = new BigInt64Array(waves.length * time);
      for (const [i, wave] of waves.entries()) {
        const row = values.subarray(i * time, (i + 1) * time);
        row.set(wave);
        mask.fill(1n, i * time, i * time + wave.length);
        if (config.do_normalize) normalize(row, masked ? wave.length : time);
      }
      const shape = [waves.length, time];
      return {
        input_values: hostTensor("float32", shape, values),
        ...(masked && { attention_mask: hostTensor("int64", shape, mask) }),
      };
    },
  };
}
