import { EspalierError } from "../../graph/errors.ts";

/** A sound of one channel, mostly within −1 … 1. */
export interface Sound {
  readonly samples: Float32Array;
  /** Samples per second. */
  readonly sampleRate: number;
}

/** Zero crossings of the kernel on each side, and the share of the band that is kept: what lies above is taken out before it can fold back. */
const crossings = 24;
const kept = 0.97;

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/** sin(πx)/(πx) under a raised cosine that ends after {@link crossings}. */
function kernel(x: number): number {
  if (x === 0) return 1;
  if (Math.abs(x) >= crossings) return 0;
  return (Math.sin(Math.PI * x) / (Math.PI * x)) * Math.cos((Math.PI * x) / (2 * crossings)) ** 2;
}

/**
 * The sound at another rate, by band-limited interpolation (Smith and Gossett, "A Flexible Sampling-Rate Conversion Method"): each new sample is a
 * sum of the old ones around its moment, weighted by a windowed sinc that keeps 97 % of the band that both rates can hold. The first sample keeps
 * its moment; ⌈length · new / old⌉ samples come out.
 * @throws EspalierError `bad-option` for a rate that is not a positive integer
 */
export function resample(sound: Sound, sampleRate: number): Sound {
  for (const rate of [sound.sampleRate, sampleRate])
    if (!Number.isInteger(rate) || rate < 1)
      throw new EspalierError("bad-option", `A sampling rate must be a positive number of samples per second, not ${rate}.`);
  if (sampleRate === sound.sampleRate) return sound;
  const divisor = greatestCommonDivisor(sound.sampleRate, sampleRate);
  const [from, to] = [sound.sampleRate / divisor, sampleRate / divisor];
  const band = kept * Math.min(1, to / from);
  const reach = Math.ceil(crossings / band);
  const { samples } = sound;
  // New samples `to` apart lie at the same place between two old ones, and share their weights.
  const phases = new Map<number, Float64Array>();
  const weightsOf = (phase: number): Float64Array => {
    let weights = phases.get(phase);
    if (!weights) {
      weights = Float64Array.from({ length: 2 * reach + 1 }, (_, k) => band * kernel((k - reach - phase / to) * band));
      phases.set(phase, weights);
    }
    return weights;
  };
  const result = new Float32Array(Math.ceil((samples.length * to) / from));
  for (let i = 0; i < result.length; i++) {
    const center = Math.floor((i * from) / to);
    const weights = weightsOf((i * from) % to);
    let sum = 0;
    const end = Math.min(samples.length - 1, center + reach);
    for (let n = Math.max(0, center - reach); n <= end; n++) sum += samples[n]! * weights[n - center + reach]!;
    result[i] = sum;
  }
  return { samples: result, sampleRate };
}
