export * from "./encode.ts";
export { onnxType } from "./model.ts";
