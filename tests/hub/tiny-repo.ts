/** A repository of a tiny model, hosted for one test. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";
import { type DownloadOptions, downloadModel } from "../../src/checkpoints/hub/download-model.ts";
import { EspalierError } from "../../src/graph/errors.ts";
import { HubServer } from "./hub-server.ts";

export const fixtures = fileURLToPath(new URL("../fixtures/", import.meta.url));
export const fixture = (name: string, file: string): Buffer => readFileSync(join(fixtures, name, file));

export const weights = fixture("llama-tiny", "model.safetensors");
export const model = {
  "config.json": fixture("llama-tiny", "config.json"),
  "generation_config.json": fixture("llama-tiny", "generation_config.json"),
  "tokenizer.json": "{}",
  LICENSE: "MIT",
  "model.safetensors": weights,
};
export const modelFiles = Object.keys(model).sort();

export async function startHub(): Promise<HubServer> {
  const hub = await HubServer.start();
  vi.stubEnv("HF_ENDPOINT", hub.endpoint);
  return hub;
}

/** What a download is refused with. */
export async function refusal(name: string, options?: DownloadOptions): Promise<{ code: string; message: string }> {
  const error: unknown = await downloadModel(name, options).then(
    (path) => new Error(`expected a refusal, got ${path}`),
    (e) => e,
  );
  if (!(error instanceof EspalierError)) throw error;
  return { code: error.code, message: error.message };
}

/** Of org/tiny in this home. */
export const repoRoot = (home: { directory: string }): string => join(home.directory, "hub", "models--org--tiny");
export const blobs = (home: { directory: string }): string[] => readdirSync(join(repoRoot(home), "blobs")).sort();
