import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attempt, byteMutations, jsonMutations, mutated, mutatedJson, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { parseJson } from "../../graph/parse-json.ts";
import { audioProcessor, readWav } from "./index.ts";

const fixtures = new URL("../../../tests/fixtures/audio-inputs/", import.meta.url).pathname;
const header = Array.from({ length: 44 }, (_, i) => i);

describe("whatever is given is read, or refused by name", () => {
  test(
    "WAV files",
    () => {
      const wav = readFileSync(join(fixtures, "stereo.wav"));
      const outcomes = tally();
      fc.assert(
        fc.property(byteMutations, (mutations) => {
          const bytes = mutated(wav, mutations, header);
          outcomes.count(
            attempt({ names: "sound.wav", bytes: bytes.length, buffers: 40 * bytes.length + 65536 }, () => {
              expect(readWav(bytes, "sound.wav").samples.every(Number.isFinite)).toBe(true);
            }),
          );
        }),
        { numRuns },
      );
      outcomes.expectBoth();
    },
    timeout,
  );

  test(
    "LIST chunks inside one another",
    () => {
      const wav = readFileSync(join(fixtures, "short.wav"));
      // RIFF, then many lists, each of which claims the rest.
      const lists = Buffer.concat(
        Array.from({ length: 200 }, () => Buffer.from([..."LIST"].map((c) => c.charCodeAt(0)).concat([4, 0, 0, 0, 73, 78, 70, 79]))),
      );
      const bytes = Buffer.concat([wav.subarray(0, 12), lists, wav.subarray(12)]);
      expect(attempt({ names: "sound.wav", bytes: bytes.length, buffers: 40 * bytes.length }, () => readWav(bytes, "sound.wav"))).toBe(
        "succeeded",
      );
    },
    timeout,
  );

  test.each(["whisper-80", "wav2vec2"])(
    "%s: what the processor's file says",
    (name) => {
      const json = readFileSync(join(fixtures, `${name}.json`), "utf8");
      const sound = { samples: Float32Array.from({ length: 500 }, (_, i) => Math.sin(i)), sampleRate: 16000 };
      const outcomes = tally();
      fc.assert(
        fc.property(jsonMutations, (mutations) => {
          const text = mutatedJson(json, mutations);
          outcomes.count(
            attempt({ names: "p.json", bytes: text.length, buffers: 1 << 22 }, () => {
              const processor = audioProcessor(parsed(text), "p.json");
              // An hour of sound may be asked for; here it only costs time.
              if (!/"chunk_length":1,|Wav2Vec2/.test(text) || processor.sampleRate !== 16000) return;
              for (const { data } of Object.values(processor.process([sound])))
                expect(Array.from(data as Float32Array).every((v) => Number.isFinite(Number(v)))).toBe(true);
            }),
          );
        }),
        { numRuns },
      );
      outcomes.expectBoth();
    },
    timeout,
  );
});

/** JSON that is none is the business of who reads the file. */
function parsed(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return {};
  }
}
