/** The room's face: model families, and directories of them read and written. In a browser import a family's own file. */
export { type BaseDtype, baseDtypes, setBaseDtype } from "./base-dtype.ts";
export * from "./causal-lm.ts";
export { CtcModel, type SpeechFeatures, type SpeechInputs, SpeechModel } from "./ctc-model.ts";
export { DecoderForCausalLM, DecoderForSequenceClassification } from "./decoder-family.ts";
export { checkExport, type ExportCheck } from "./export/check-export.ts";
export { type ExportedOnnx, type ExportOnnxOptions, exportOnnx } from "./export/export-onnx.ts";
export { type ExportableModel, isExportable } from "./export/graphs.ts";
export { loadExportable } from "./export/load-exportable.ts";
export { type ExportDtype, exportDtypes } from "./export/weights.ts";
export { ClipModel, type ClipTextModel, type ClipVisionModel, type TowerOutputs } from "./families/clip.ts";
export { families, familyOf } from "./families/index.ts";
export * from "./families/llama.ts";
export { type SpectrogramSource, WhisperForConditionalGeneration } from "./families/whisper.ts";
export { type Family, taskNames } from "./family.ts";
export { ImageClassifier, type ImageFeatures, ImageModel } from "./image-model.ts";
export { loadCausalLM, loadSequenceClassifier } from "./load.ts";
export { loadMaskedLM, loadSentenceEncoder, loadTokenClassifier } from "./load-encoder.ts";
export { loadImageClassifier, loadImageModel, loadImageTextModel } from "./load-image.ts";
export { loadSeq2SeqLM } from "./load-seq2seq.ts";
export { loadCtcModel, loadSpeechModel, loadSpeechSeq2Seq } from "./load-speech.ts";
export { OnnxModel, type OnnxModelOptions, type OnnxPort, openOnnxModel } from "./onnx/onnx-model.ts";
export { type SaveOnnxOptions, saveOnnx } from "./onnx/save-onnx.ts";
export { onnxLanguageModel, onnxSequenceClassifier } from "./onnx/views.ts";
export { resizeTokenEmbeddings } from "./resize-embeddings.ts";
export { type SaveableModel, type SaveModelOptions, saveModel } from "./save.ts";
export { type Encoded, Seq2SeqLM, type TextSource } from "./seq2seq.ts";
export {
  type EncoderInputs,
  type EncoderOutputs,
  MaskedLM,
  type Pooling,
  SentenceEncoder,
  TextEncoder,
  TokenClassifier,
} from "./text-encoder.ts";
export { type WhisperSettings, whisperSettings } from "./whisper-settings.ts";
