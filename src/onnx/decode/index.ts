/** Foreign .onnx files, rebuilt in operators of ours. A face of its own: programs that only write models do not load it. */
export { Agreement, substitute } from "./agreement.ts";
export { dtypeOf } from "./element-types.ts";
export { evaluate, type Site, type Source } from "./evaluate.ts";
export type {
  AttributeValue,
  OnnxFile,
  OnnxGraph,
  OnnxNode,
  OnnxTensor,
  OnnxValueInfo,
  StoredType,
} from "./model-file.ts";
export { isAnonymous, modulePath } from "./names.ts";
export { parseOnnx, typeName } from "./parse.ts";
export { operatorNames } from "./rules/index.ts";
export { settle } from "./settle.ts";
export { content, maxContent, Value } from "./value.ts";
