import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { refusal } from "../checkpoints/refusal.ts";
import { loadCausalLM } from "./index.ts";

const fixture = new URL("../../tests/fixtures/decoder-qwen3", import.meta.url).pathname;

/** The end tokens of the fixture with this generation_config.json; without one for undefined. */
function endIds(generation: unknown): readonly number[] {
  const directory = mkdtempSync(join(tmpdir(), "espalier-"));
  try {
    cpSync(fixture, directory, { recursive: true });
    if (generation !== undefined) writeFileSync(join(directory, "generation_config.json"), JSON.stringify(generation));
    return loadCausalLM(directory).endIds;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("end tokens: one, several or none, or a refusal that names the file", () => {
  expect(endIds({ eos_token_id: [5, 7] })).toEqual([5, 7]);
  expect(endIds({ eos_token_id: 5, temperature: 0.5 })).toEqual([5]);
  expect(endIds({})).toEqual([]);
  expect(endIds(undefined)).toEqual([]);
  expect(refusal(() => endIds({ eos_token_id: "</s>" }), tmpdir()).message).toMatch(
    /generation_config\.json: "eos_token_id" must be a token id/,
  );
});
