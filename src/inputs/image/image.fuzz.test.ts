import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { attempt, attemptAsync, byteMutations, jsonMutations, mutated, mutatedJson, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { parseJson } from "../../graph/parse-json.ts";
import { decodeImage, ImageProcessor } from "./index.ts";

const fixtures = new URL("../../../tests/fixtures/image-inputs/", import.meta.url).pathname;

describe("whatever is given is read, or refused by name", () => {
  test.each(["rgb.png", "palette.png", "turned.jpg"])(
    "%s",
    async (name) => {
      const file = readFileSync(join(fixtures, name));
      const outcomes = tally();
      await fc.assert(
        fc.asyncProperty(byteMutations, async (mutations) => {
          const bytes = mutated(file, mutations);
          const run = async () => {
            const { width, height, data } = await decodeImage(bytes, "picture");
            expect(data.length).toBe(width * height * 3);
          };
          outcomes.count(await attemptAsync({ names: "picture", bytes: bytes.length, buffers: 1 << 26 }, run));
        }),
        { numRuns: Math.min(numRuns, 200) },
      );
      // The checksums of a PNG tell nearly every change.
      if (name.endsWith(".jpg")) outcomes.expectBoth();
    },
    timeout,
  );

  test.each(["vit", "deit", "clip", "dinov2"])(
    "%s: what the processor's file says",
    (name) => {
      const json = readFileSync(join(fixtures, `${name}.json`), "utf8");
      const image = { width: 5, height: 3, data: Uint8Array.from({ length: 45 }, (_, i) => i * 5) };
      const outcomes = tally();
      fc.assert(
        fc.property(jsonMutations, (mutations) => {
          const text = mutatedJson(json, mutations);
          outcomes.count(
            attempt({ names: "p.json", bytes: text.length, buffers: 1 << 22 }, () => {
              const { data } = ImageProcessor.fromJson(parsed(text), "p.json").process([image]);
              expect(Array.from(data as Float32Array).every(Number.isFinite)).toBe(true);
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
