import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";

const variables = [
  "HF_HUB_CACHE",
  "HUGGINGFACE_HUB_CACHE",
  "HF_TOKEN",
  "HUGGING_FACE_HUB_TOKEN",
  "HF_TOKEN_PATH",
  "HF_HUB_OFFLINE",
  "TRANSFORMERS_OFFLINE",
  "HF_HUB_DISABLE_IMPLICIT_TOKEN",
];

/** Every test of the file has a Hub's home of its own, and nothing of the machine's settings. */
export function ownHome(): { readonly directory: string } {
  const home = { directory: "" };
  beforeEach(() => {
    home.directory = mkdtempSync(join(tmpdir(), "espalier-hub-"));
    vi.stubEnv("HF_HOME", home.directory);
    vi.stubEnv("HF_ENDPOINT", "http://127.0.0.1:9"); // nobody answers there
    for (const name of variables) vi.stubEnv(name, undefined);
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(home.directory, { recursive: true, force: true });
  });
  return home;
}
