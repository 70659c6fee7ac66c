export * from "./encode.ts";
export { onnx, onnxType } from "./proto.ts";
