import { readProcessorConfig } from "../processor-file.ts";
import { ImageProcessor } from "./image-processor.ts";

/**
 * The image processor of a checkpoint directory.
 * @throws EspalierError `processor-missing`, `unsupported-processor`, `bad-config`
 */
export function imageProcessorFromDirectory(directory: string): ImageProcessor {
  const { json, file } = readProcessorConfig(directory, "image_processor");
  return ImageProcessor.fromJson(json, file);
}
