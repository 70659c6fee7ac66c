/** WAV files → sounds of one channel, through wavefile. Nothing here imports from Node. */
import * as wavefile from "wavefile";
import { EspalierError } from "../../graph/errors.ts";
import type { Sound } from "./sound.ts";

/** Node finds the library's CommonJS build, all of it in `default`, and bundlers its modules. */
const { WaveFile } = ("default" in wavefile ? wavefile.default : wavefile) as typeof wavefile;

/**
 * Reads a WAV file of any usual kind: integers of 8 to 32 bits, floats of 32 and 64, A-law, μ-law, IMA ADPCM. Several channels are averaged. An integer
 * of b bits is divided by 2^(b−1), so that −1 … 1 is the full range.
 * @param name named in errors
 * @throws EspalierError `audio-broken`
 */
export function readWav(bytes: Uint8Array, name = "the sound"): Sound {
  const wav = open(bytes, name);
  const { numChannels: channels, sampleRate } = wav.fmt as { numChannels: number; sampleRate: number };
  const depth = wav.bitDepth;
  const values = wav.getSamples(true);
  // Whole numbers of 8 bits have no sign: silence is 128.
  const [zero, full] = depth === "8" ? [128, 128] : depth === "32f" || depth === "64" ? [0, 1] : [0, 2 ** (Number.parseInt(depth, 10) - 1)];
  const samples = new Float32Array(Math.floor(values.length / channels));
  for (let i = 0; i < samples.length; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += values[i * channels + c]! - zero;
    samples[i] = sum / (channels * full);
  }
  if (!samples.every(Number.isFinite)) throw broken(name, "some of its samples are not finite numbers");
  return { samples, sampleRate };
}

const broken = (name: string, what: string, cause?: unknown) =>
  new EspalierError("audio-broken", `${name}: cannot be read as a WAV file: ${what}. Convert the recording to WAV, or fetch it again.`, {
    cause,
  });

function open(bytes: Uint8Array, name: string): wavefile.WaveFile {
  const { format, data } = chunks(bytes, name);
  const view = new DataView(format.buffer, format.byteOffset, format.byteLength);
  const [channels, rate] = [view.getUint16(2, true), view.getUint32(4, true)];
  if (channels === 0 || rate === 0) throw broken(name, `its header says ${channels} channels at ${rate} samples per second`);
  let wav: wavefile.WaveFile;
  try {
    wav = new WaveFile(file(format, data));
    if (wav.bitDepth === "4") wav.fromIMAADPCM();
    else if (wav.bitDepth === "8a") wav.fromALaw();
    else if (wav.bitDepth === "8m") wav.fromMuLaw();
  } catch (cause) {
    throw broken(name, (cause as Error).message, cause);
  }
  if (!/^(8|16|24|32|32f|64)$/.test(wav.bitDepth))
    throw broken(name, `its samples are of the kind ${JSON.stringify(wav.bitDepth)}, which is not known`);
  return wav;
}

/** Sizes that programs write into files whose length they do not know yet. */
const unknownSize = 0xffffffff;

/** The two chunks that matter. Others (tags, cue points) are left out: the library reads nested ones in time exponential in their number. */
function chunks(bytes: Uint8Array, name: string): { format: Uint8Array; data: Uint8Array } {
  const text = (at: number) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (!/^(RIFF|RF64)$/.test(text(0)) || text(8) !== "WAVE") throw broken(name, `it does not begin as one`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let format: Uint8Array | undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const [kind, size] = [text(at), view.getUint32(at + 4, true)];
    const content = bytes.subarray(at + 8, at + 8 + size);
    if (kind === "fmt ") format = content;
    if (kind === "data" && format) {
      if (size !== unknownSize && content.length < size) throw broken(name, `it ends after ${content.length} of ${size} bytes of sound`);
      if (format.length < 16) throw broken(name, "its header is cut short");
      return { format, data: content };
    }
    at += 8 + size + (size % 2);
  }
  throw broken(name, format ? "it has no sound" : "it has no header before its sound");
}

/** A WAV file of these two chunks. */
function file(format: Uint8Array, data: Uint8Array): Uint8Array {
  const even = (n: number) => n + (n % 2);
  const bytes = new Uint8Array(28 + even(format.length) + even(data.length));
  const view = new DataView(bytes.buffer);
  const chunk = (at: number, kind: string, size: number) => {
    bytes.set(new TextEncoder().encode(kind), at);
    view.setUint32(at + 4, size, true);
  };
  chunk(0, "RIFF", bytes.length - 8);
  bytes.set(new TextEncoder().encode("WAVE"), 8);
  chunk(12, "fmt ", format.length);
  bytes.set(format, 20);
  chunk(20 + even(format.length), "data", data.length);
  bytes.set(data, 28 + even(format.length));
  return bytes;
}
