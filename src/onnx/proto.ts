import onnxProto from "onnx-proto";
import type { DType } from "../graph/index.ts";

export const { onnx } = onnxProto;

/** ONNX TensorProto.DataType of each of our dtypes. */
export const onnxType: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
};

const AttributeType = { FLOAT: 1, INT: 2, STRING: 3, GRAPH: 5, FLOATS: 6, INTS: 7 } as const;

export { AttributeType };
