import { type WriteOnnxOptions, type WrittenOnnx, writeOnnxFile } from "../../checkpoints/index.ts";
import type { TensorType } from "../../graph/index.ts";
import type { OnnxModel } from "./onnx-model.ts";

export interface SaveOnnxOptions extends WriteOnnxOptions {
  /** Sizes of the inputs in place of the file's dynamic ones. */
  types?: Readonly<Record<string, TensorType>>;
  /** Outputs to keep. Default: all of the file's. */
  outputs?: readonly string[];
}

/**
 * Writes a model that came from an .onnx file as one again, adapters included, with the file's own names of inputs and outputs and its dynamic sizes.
 * An adapter that was merged before costs nothing; one that was not stays a branch beside its weight.
 *
 * @throws EspalierError as {@link OnnxModel.forward} and `writeOnnxFile`
 */
export const saveOnnx = (file: string, model: OnnxModel, options: SaveOnnxOptions = {}): WrittenOnnx =>
  writeOnnxFile(file, model.trace(options.types, options.outputs), options);
