/** Finds what a checkpoint directory says of its inputs other than text. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../checkpoints/json-file.ts";
import { EspalierError } from "../graph/errors.ts";

/**
 * `preprocessor_config.json`, or the part of `processor_config.json` where a checkpoint of several modalities keeps it.
 * @throws EspalierError `processor-missing`, and `checkpoint-json` for a file that is not JSON
 */
export function readProcessorConfig(directory: string, part: "image_processor" | "feature_extractor"): { json: unknown; file: string } {
  const file = join(directory, "preprocessor_config.json");
  if (existsSync(file)) return { json: readJsonObject(file), file };
  const joint = join(directory, "processor_config.json");
  const json = existsSync(joint) ? readJsonObject(joint)[part] : undefined;
  if (typeof json === "object" && json !== null) return { json, file: `${joint} ("${part}")` };
  throw new EspalierError(
    "processor-missing",
    `${directory}: has neither preprocessor_config.json nor a processor_config.json with "${part}", which say how the model's inputs are made. Copy the file from the original checkpoint.`,
  );
}
