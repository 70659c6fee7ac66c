/** Whisper's log-mel spectrogram (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision"). */
import { EspalierError } from "../../graph/errors.ts";
import { FourierTransform } from "./fourier.ts";

export interface LogMelOptions {
  /** Mel bins: 80, or 128 since Whisper large-v3. */
  bins: number;
  /** Default 16000. */
  sampleRate?: number;
  /** Samples of a frame. Default 400. */
  frameLength?: number;
  /** Samples from one frame to the next. Default 160. */
  hopLength?: number;
}

/** Filters end here, whatever the sampling rate. */
const highestHertz = 8000;
/** Energies below are taken for this one, and what lies 8 powers of ten under the loudest place for that. */
const [floor, range] = [1e-10, 8];

/** Slaney's mel scale: linear up to 1000 Hz (15 mel), 27 mel for each factor of 6.4 above. */
const mel = (hertz: number): number => (hertz < 1000 ? (3 * hertz) / 200 : 15 + (27 * Math.log(hertz / 1000)) / Math.log(6.4));
const hertz = (mel: number): number => (mel < 15 ? (200 * mel) / 3 : 1000 * 6.4 ** ((mel - 15) / 27));

/** A filter: weights of the frequencies from `first` on. */
interface Filter {
  first: number;
  weights: readonly number[];
}

/** Triangles evenly spaced in mel that overlap by half, each of area 1 in hertz. */
function melFilters(bins: number, frequencies: number, sampleRate: number): Filter[] {
  const corners = Array.from({ length: bins + 2 }, (_, i) => hertz((mel(highestHertz) * i) / (bins + 1)));
  const step = Math.floor(sampleRate / 2) / (frequencies - 1);
  return Array.from({ length: bins }, (_, bin) => {
    const [low, middle, high] = corners.slice(bin, bin + 3) as [number, number, number];
    const first = Math.max(0, Math.ceil(low / step));
    const last = Math.min(frequencies - 1, Math.floor(high / step));
    const height = 2 / (high - low);
    const weights = Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => {
      const at = (first + i) * step;
      return height * Math.min((at - low) / (middle - low), (high - at) / (high - middle));
    });
    return { first, weights };
  });
}

/**
 * The spectrogram of one sound → [bins, frames], ⌊samples / hop⌋ frames: energies under a Hann window, summed by mel filters, log10, kept within 8 of
 * the largest, then (x + 4) / 4. Frames are centred; at both ends the sound is mirrored.
 * @throws EspalierError `audio-short` for a sound that is not longer than half a frame
 */
export function logMelSpectrogram(samples: Float32Array, options: LogMelOptions): Float32Array {
  const { bins, sampleRate = 16000, frameLength = 400, hopLength = 160 } = options;
  const half = Math.floor(frameLength / 2);
  if (samples.length <= half)
    throw new EspalierError(
      "audio-short",
      `A spectrogram needs more than ${half} samples; the sound has ${samples.length}. Pad it with zeros.`,
    );
  const frames = Math.floor(samples.length / hopLength);
  const frequencies = half + 1;
  const filters = melFilters(bins, frequencies, sampleRate);
  const window = Float64Array.from({ length: frameLength }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / frameLength));
  const transform = new FourierTransform(frameLength);
  const frame = new Float64Array(frameLength);
  const energies = new Float64Array(frequencies);
  const last = samples.length - 1;
  const result = new Float32Array(bins * frames);
  let loudest = Number.NEGATIVE_INFINITY;
  for (let t = 0; t < frames; t++) {
    for (let i = 0; i < frameLength; i++) {
      const at = Math.abs(t * hopLength + i - half);
      frame[i] = samples[at > last ? 2 * last - at : at]! * window[i]!;
    }
    transform.run(frame);
    for (let k = 0; k < frequencies; k++) energies[k] = transform.re[k]! ** 2 + transform.im[k]! ** 2;
    for (const [bin, { first, weights }] of filters.entries()) {
      let energy = 0;
      for (let i = 0; i < weights.length; i++) energy += weights[i]! * energies[first + i]!;
      const value = Math.log10(Math.max(energy, floor));
      loudest = Math.max(loudest, value);
      result[bin * frames + t] = value;
    }
  }
  return result.map((value) => (Math.max(value, loudest - range) + 4) / 4);
}
