import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import wavefile from "wavefile";
import { openSafetensors, readJsonObject, readStorage } from "../../checkpoints/index.ts";
import { FourierTransform } from "./fourier.ts";
import { audioProcessor, audioProcessorFromDirectory, logMelSpectrogram, readWav, readWavFile, resample, type Sound } from "./index.ts";

const fixtures = new URL("../../../tests/fixtures/audio-inputs/", import.meta.url).pathname;
const { tensors } = openSafetensors(join(fixtures, "expected.safetensors"));
const processor = (name: string) => audioProcessor(readJsonObject(join(fixtures, `${name}.json`)));
const [long, short] = (await Promise.all(["long.wav", "short.wav"].map((file) => readWavFile(join(fixtures, file))))) as [Sound, Sound];

function expectClose(got: { shape: readonly number[]; data: ArrayLike<unknown> } | undefined, name: string, tolerance: number): void {
  const storage = tensors.get(name)!;
  const expected = readStorage(storage) as ArrayLike<number>;
  expect(got?.shape).toEqual(storage.shape);
  let largest = 0;
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(Number(got!.data[i]) - Number(expected[i]!)));
  expect(largest).toBeLessThanOrEqual(tolerance);
}

describe("processors compute what transformers computes", () => {
  test.each(["whisper-80", "whisper-128"])("%s", (name) => {
    expectClose(processor(name).process([long, short]).input_features, `${name}.input_features`, 3e-5);
  });

  test("what is longer than a chunk is cut", () => {
    const joined = new Float32Array(long.samples.length + short.samples.length);
    joined.set(long.samples);
    joined.set(short.samples, long.samples.length);
    expectClose(processor("whisper-128").process([{ samples: joined, sampleRate: 16000 }]).input_features, "cut.input_features", 3e-5);
  });

  test.each(["wav2vec2", "wav2vec2-unmasked"])("%s", (name) => {
    const batch = processor(name).process([short, { ...long, samples: long.samples.subarray(0, 1000) }]);
    expectClose(batch.input_values, `${name}.input_values`, 2e-6);
    expect(Object.keys(batch)).toEqual(name === "wav2vec2" ? ["input_values", "attention_mask"] : ["input_values"]);
    if (name === "wav2vec2") expectClose(batch.attention_mask, `${name}.attention_mask`, 0);
  });

  test("thirty seconds of Whisper are 3000 frames", () => {
    const batch = audioProcessor({ feature_extractor_type: "WhisperFeatureExtractor" }).process([short]);
    expect(batch.input_features!.shape).toEqual([1, 80, 3000]);
  });

  test("a sound of another rate is resampled first", () => {
    const twice = resample(short, 32000);
    const [once, again] = [short, twice].map((sound) => processor("wav2vec2").process([sound]).input_values!.data as Float32Array);
    expect(again!.length).toBe(once!.length);
    // All but the ends and what lies above 97 % of the band: noise of 1 % in a sound of 30 %.
    const differences = once!.map((v, i) => Math.abs(v - again![i]!)).subarray(100, -100);
    expect(Math.max(...differences)).toBeLessThan(0.05);
  });
});

describe("the Fourier transform", () => {
  test.each([1, 2, 7, 12, 400])("of length %d is its definition", (size) => {
    const signal = Float64Array.from({ length: size }, (_, i) => Math.sin(i * i));
    const transform = new FourierTransform(size);
    transform.run(signal);
    for (const k of [0, 1, size >> 1, size - 1]) {
      const angle = (i: number) => (-2 * Math.PI * i * k) / size;
      expect(transform.re[k % size]).toBeCloseTo(
        signal.reduce((sum, x, i) => sum + x * Math.cos(angle(i)), 0),
        10,
      );
      expect(transform.im[k % size]).toBeCloseTo(
        signal.reduce((sum, x, i) => sum + x * Math.sin(angle(i)), 0),
        10,
      );
    }
  });
});

describe("resampling", () => {
  const tone = (hertz: number, sampleRate: number, length = sampleRate / 4): Sound => ({
    samples: Float32Array.from({ length }, (_, i) => Math.sin((2 * Math.PI * hertz * i) / sampleRate)),
    sampleRate,
  });
  const middle = (samples: Float32Array) => samples.subarray(200, -200);

  test.each([
    [44100, 16000],
    [8000, 16000],
    [48000, 16000],
    [22050, 16000],
  ])("a tone of 1 kHz stays what it is from %d to %d Hz", (from, to) => {
    const got = resample(tone(1000, from, Math.floor(from / 4)), to);
    expect(got.samples.length).toBe(Math.ceil((Math.floor(from / 4) * to) / from));
    const expected = tone(1000, to, got.samples.length);
    const error = middle(got.samples).map((v, i) => Math.abs(v - middle(expected.samples)[i]!));
    expect(Math.max(...error)).toBeLessThan(2e-3);
  });

  test("a tone that the new rate cannot hold is gone, not folded back", () => {
    expect(Math.max(...middle(resample(tone(10000, 44100), 16000).samples))).toBeLessThan(2e-3);
  });

  test("the same rate gives the same sound, and a rate must be one", () => {
    expect(resample(short, 16000)).toBe(short);
    expect(() => resample(short, 0)).toThrow(/not 0/);
    expect(() => resample({ ...short, sampleRate: 16000.5 }, 16000)).toThrow(/not 16000.5/);
  });
});

describe("WAV files", () => {
  const written = (depth: string, channels: number[][] | number[], rate = 8000) => {
    const wav = new wavefile.WaveFile();
    wav.fromScratch(Array.isArray(channels[0]) ? channels.length : 1, rate, depth, channels as number[][]);
    return wav.toBuffer();
  };

  test.each([
    ["8", [0, 128, 192, 255], [-1, 0, 0.5, 127 / 128]],
    ["16", [-32768, 0, 16384, 32767], [-1, 0, 0.5, 32767 / 32768]],
    ["24", [-8388608, 0, 4194304], [-1, 0, 0.5]],
    ["32", [-2147483648, 0, 1073741824], [-1, 0, 0.5]],
    ["32f", [-1, 0, 0.25, 1.5], [-1, 0, 0.25, 1.5]],
    ["64", [-1, 0, 0.25], [-1, 0, 0.25]],
  ])("%s bits", (depth, values, expected) => {
    const { samples, sampleRate } = readWav(written(depth, values));
    expect(Array.from(samples)).toEqual(expected.map(Math.fround));
    expect(sampleRate).toBe(8000);
  });

  test("channels are averaged", async () => {
    const { samples } = readWav(
      written("16", [
        [8192, -16384],
        [16384, 16384],
      ]),
    );
    expect(Array.from(samples)).toEqual([0.375, 0]);
    const stereo = await readWavFile(join(fixtures, "stereo.wav"));
    expect(stereo.samples.length).toBe(3200);
  });

  test("compressed samples are decoded", () => {
    const wav = new wavefile.WaveFile(readFileSync(join(fixtures, "short.wav")));
    wav.toMuLaw();
    const { samples } = readWav(wav.toBuffer());
    expect(samples.length).toBe(short.samples.length);
    expect(Math.max(...samples.map((v, i) => Math.abs(v - short.samples[i]!)))).toBeLessThan(0.03);
  });

  test("a length that its writer did not know is the rest of the file", () => {
    const bytes = written("16", [16384, 16384]);
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(40, 0xffffffff, true);
    expect(Array.from(readWav(bytes).samples)).toEqual([0.5, 0.5]);
  });

  test("what is no WAV file, cut, without channels or not finite is refused by name", async () => {
    const bytes = written("16", [1, 2, 3, 4]);
    const changed = (at: number, value: number) => {
      const copy = Uint8Array.from(bytes);
      new DataView(copy.buffer).setUint16(at, value, true);
      return copy;
    };
    expect(() => readWav(new Uint8Array(), "a.wav")).toThrow(/a\.wav: .*does not begin as one/);
    expect(() => readWav(bytes.subarray(0, bytes.length - 3))).toThrow(/ends after 5 of 8 bytes/);
    expect(() => readWav(bytes.subarray(0, 36))).toThrow(/no sound/);
    expect(() => readWav(changed(22, 0))).toThrow(/0 channels/);
    expect(() => readWav(changed(34, 77))).toThrow(/"77"|Invalid/);
    expect(() => readWav(written("32f", [Number.NaN]))).toThrow(/not finite/);
    await expect(readWavFile(join(fixtures, "none.wav"))).rejects.toMatchObject({ code: "audio-missing" });
  });
});

describe("what is refused", () => {
  test("an extractor or an option that Espalier does not have", () => {
    expect(() => audioProcessor({ feature_extractor_type: "ClapFeatureExtractor" }, "f.json")).toThrow(/f\.json.*Clap/);
    expect(() => audioProcessor({})).toThrow(/missing/);
    expect(() => audioProcessor({ feature_extractor_type: "WhisperFeatureExtractor", dither: 0.1 })).toThrow(/"dither" is 0.1/);
  });

  test("an empty batch, a sound without a sample, and one too short for a frame", () => {
    expect(() => processor("wav2vec2").process([])).toThrow(/no sound/);
    expect(() => processor("wav2vec2").process([short, { samples: new Float32Array(), sampleRate: 16000 }])).toThrow(/Sound 2/);
    expect(() => logMelSpectrogram(new Float32Array(200), { bins: 80 })).toThrow(/more than 200 samples/);
  });

  test("a directory says how; one that does not is refused", () => {
    const directory = mkdtempSync(join(tmpdir(), "espalier-"));
    try {
      expect(() => audioProcessorFromDirectory(directory)).toThrow(/neither preprocessor_config.json/);
      writeFileSync(join(directory, "preprocessor_config.json"), readFileSync(join(fixtures, "wav2vec2.json")));
      expect(audioProcessorFromDirectory(directory).sampleRate).toBe(16000);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
