/** The room's face: model families, and directories of them read and written. In a browser import a family's own file. */
export * from "./llama.ts";
export { loadCausalLM, loadSequenceClassifier } from "./load.ts";
export { readLlamaConfig } from "./read-config.ts";
export { type SaveModelOptions, saveModel } from "./save.ts";
