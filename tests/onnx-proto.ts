/** Reads models for tests, through the protobuf library. What writes them is `src/onnx/model.ts`. */
import onnxProto from "onnx-proto";

export const { onnx } = onnxProto;
