/** The room's face: reading and writing weights. Knows formats, not architectures. */

export {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  fromFloat32,
  toFloat32,
} from "../graph/dtype-conversion.ts";
export { readStorage, streamFloats } from "../runtime/stored-values.ts";
export { flushDirectory, writeFileAtomically } from "./atomic-file.ts";
export { type FileHash, hashFile } from "./file-hash.ts";
export { GgufFile, type GgufTensor } from "./gguf/gguf-file.ts";
export { saveLoraGguf } from "./gguf/lora-gguf.ts";
export { ggufTokenizer, type TokenizerFiles } from "./gguf/tokenizer.ts";
export { type Checkpoint, findGguf, makeDirectory, openCheckpoint, saveCheckpoint, writeFiles } from "./hf-directory.ts";
export { type DownloadOptions, type DownloadProgress, downloadModel } from "./hub/download-model.ts";
export { type HubId, parseHubId } from "./hub/hub-id.ts";
export { jsonFloat, readJsonFile, readJsonObject, readJsonToCopy, writeJson } from "./json-file.ts";
export { matchTensors } from "./match-tensors.ts";
export { type OpenOnnx, openOnnx } from "./onnx-file.ts";
export { type PeftAdapter, readPeftAdapter, writePeftAdapter } from "./peft-adapter.ts";
export {
  loraScaling,
  type PeftConfig,
  type PeftConfigInput,
  type PeftType,
  parsePeftConfig,
  unsupportedPeftOptions,
} from "./peft-config.ts";
export { type NamedStorages, openSafetensors, type SafetensorsFile, writeSafetensors } from "./safetensors.ts";
export { type WriteOnnxOptions, type WrittenOnnx, writeOnnxFile } from "./write-onnx.ts";
