/** Reads models: for tests. What writes them is `model.ts`. */
import onnxProto from "onnx-proto";

export const { onnx } = onnxProto;
