/** The public face. Each room has a face of its own too: `espalier/nn`, `espalier/train`, `espalier/methods`, … */
export { grad, vjp } from "./autodiff/index.ts";
export { downloadModel } from "./checkpoints/index.ts";
export { defineRun, type RunConfig } from "./cli/config/define-run.ts";
export { EspalierError, Random, symbol, type Tensor, trace, Variable } from "./graph/index.ts";
export { loadAdapter, lora, mergeAdapters } from "./methods/index.ts";
export { loadCausalLM, loadSequenceClassifier, saveModel } from "./models/index.ts";
export { type Device, type HostTensor, hostTensor, jit } from "./runtime/index.ts";
export { cpu } from "./runtime/node.ts";
export { type DeviceName, deviceNames, openDevice } from "./runtime/open-device.ts";
export * from "./train/index.ts";
