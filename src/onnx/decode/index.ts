/** Foreign .onnx files, rebuilt in operators of ours. A face of its own: programs that only write models do not load it. */
export { Agreement, substitute } from "./agreement.ts";
export { dtypeOf } from "./element-types.ts";
export { evaluate, type Site, type Source } from "./evaluate.ts";
export {
  type AttributeValue,
  type OnnxFile,
  type OnnxGraph,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
  parseOnnx,
  type StoredType,
  typeName,
} from "./model-file.ts";
export { isAnonymous, modulePath } from "./names.ts";
export { operatorNames } from "./rules/index.ts";
export { settle } from "./settle.ts";
export { content, maxContent, Value } from "./value.ts";
