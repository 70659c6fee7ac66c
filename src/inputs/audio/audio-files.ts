/** Sounds and their processors from files (Node only). */
import { readFile } from "node:fs/promises";
import { EspalierError } from "../../graph/errors.ts";
import { readProcessorConfig } from "../processor-file.ts";
import { type AudioProcessor, audioProcessor } from "./audio-processor.ts";
import type { Sound } from "./sound.ts";
import { readWav } from "./wav.ts";

/** @throws EspalierError `audio-missing`, `audio-broken` */
export async function readWavFile(path: string): Promise<Sound> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw new EspalierError("audio-missing", `${path}: cannot be read (${(cause as Error).message}). Check the path.`, { cause });
  }
  return readWav(bytes, path);
}

/**
 * The audio processor of a checkpoint directory.
 * @throws EspalierError `processor-missing`, `unsupported-processor`, `bad-config`
 */
export function audioProcessorFromDirectory(directory: string): AudioProcessor {
  const { json, file } = readProcessorConfig(directory, "feature_extractor");
  return audioProcessor(json, file);
}
