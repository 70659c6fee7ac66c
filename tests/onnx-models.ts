/** Small .onnx files for tests, written with the protobuf library, and what plain ONNX Runtime makes of them. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocate, type DType, elementCount, type TypedArray } from "../src/graph/index.ts";
import { onnxType, rawBytes } from "../src/onnx/index.ts";
import { type HostTensor, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { onnx } from "./onnx-proto.ts";

type GraphMessage = NonNullable<Parameters<typeof onnx.GraphProto.create>[0]>;
export type TensorMessage = NonNullable<Parameters<typeof onnx.TensorProto.create>[0]>;
type AttributeMessage = NonNullable<Parameters<typeof onnx.AttributeProto.create>[0]>;
type NodeMessage = NonNullable<Parameters<typeof onnx.NodeProto.create>[0]>;

type Attribute =
  | number
  | string
  | readonly number[]
  | { float: number }
  | { floats: readonly number[] }
  | { tensor: HostTensor }
  | { graph: GraphMessage };

export interface NodeSpec {
  op: string;
  domain?: string;
  name?: string;
  in: readonly string[];
  out: readonly string[];
  attrs?: Readonly<Record<string, Attribute>>;
  metadata?: Readonly<Record<string, string>>;
}

export interface ModelSpec {
  nodes: readonly NodeSpec[];
  inputs?: Readonly<Record<string, readonly [DType, ...(number | string)[]]>>;
  outputs: readonly string[];
  /** Types of outputs, where the file is to declare them. */
  types?: ModelSpec["inputs"];
  initializers?: Readonly<Record<string, HostTensor | TensorMessage>>;
  opset?: number;
}

/** A tensor of numbers, whatever its type. */
export function tensor(dtype: DType, shape: readonly number[], values: readonly number[]): HostTensor {
  const data = allocate(dtype, elementCount(shape));
  for (const [i, v] of values.entries()) data[i] = dtype === "int64" ? BigInt(v) : v;
  return hostTensor(dtype, shape, data);
}
export const f32 = (shape: readonly number[], ...values: number[]): HostTensor => tensor("float32", shape, values);
export const i64 = (shape: readonly number[], ...values: number[]): HostTensor => tensor("int64", shape, values);

/** Random values, the same at every call. */
export function sampled(shape: readonly number[], seed = 1, scale = 1): HostTensor {
  let state = seed * 2654435761;
  const values = Array.from({ length: elementCount(shape) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
  return tensor("float32", shape, values);
}

const isProto = (t: HostTensor | TensorMessage): t is TensorMessage => "dataType" in t;

function tensorProto(name: string, t: HostTensor | TensorMessage): TensorMessage {
  if (isProto(t)) return { ...t, name };
  return { name, dims: [...t.shape], dataType: onnxType[t.dtype], rawData: rawBytes(t.data) };
}

function attributeProto(name: string, value: Attribute): AttributeMessage {
  const T = onnx.AttributeProto.AttributeType;
  if (typeof value === "number") return { name, type: T.INT, i: value };
  if (typeof value === "string") return { name, type: T.STRING, s: new TextEncoder().encode(value) };
  if ("float" in value) return { name, type: T.FLOAT, f: value.float };
  if ("floats" in value) return { name, type: T.FLOATS, floats: [...value.floats] };
  if ("tensor" in value) return { name, type: T.TENSOR, t: tensorProto("", value.tensor) };
  if ("graph" in value) return { name, type: T.GRAPH, g: value.graph };
  return { name, type: T.INTS, ints: [...value] };
}

const nodeProto = (n: NodeSpec): NodeMessage => ({
  opType: n.op,
  domain: n.domain ?? "",
  name: n.name ?? n.out[0] ?? "",
  input: [...n.in],
  output: [...n.out],
  attribute: Object.entries(n.attrs ?? {}).map(([name, value]) => attributeProto(name, value)),
});

const valueInfo = (name: string, [dtype, ...shape]: readonly [DType, ...(number | string)[]]) => ({
  name,
  type: {
    tensorType: {
      elemType: onnxType[dtype],
      shape: { dim: shape.map((d) => (typeof d === "number" ? { dimValue: d } : { dimParam: d })) },
    },
  },
});

/** A graph, of a model or of a branch. */
export const graphProto = ({ nodes, inputs = {}, outputs, types = {}, initializers = {} }: ModelSpec): GraphMessage => ({
  name: "test",
  node: nodes.map(nodeProto),
  initializer: Object.entries(initializers).map(([name, t]) => tensorProto(name, t)),
  input: Object.entries(inputs).map(([name, type]) => valueInfo(name, type)),
  output: outputs.map((name) => (types[name] ? valueInfo(name, types[name]) : { name })),
});

export function modelBytes(spec: ModelSpec): Uint8Array {
  const message = onnx.ModelProto.create({
    irVersion: 8,
    opsetImport: [
      { domain: "", version: spec.opset ?? 17 },
      { domain: "com.microsoft", version: 1 },
    ],
    graph: graphProto(spec),
  });
  return onnx.ModelProto.encode(message).finish();
}

/** Runs `use` with a file of these bytes in a directory of its own. */
export async function withModelFile<T>(bytes: Uint8Array, use: (file: string, directory: string) => T | Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "espalier-onnx-"));
  try {
    const file = join(directory, "model.onnx");
    writeFileSync(file, bytes);
    return await use(file, directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const { InferenceSession, Tensor } = cpu({ threads: 1 }).platform.ort;

/** What ONNX Runtime itself computes from a file: nothing of ours is in between. */
export async function runPlain(file: string, feeds: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
  const session = await InferenceSession.create(file, { graphOptimizationLevel: "disabled", logSeverityLevel: 4 });
  try {
    const fed = Object.entries(feeds).map(
      ([name, t]) => [name, new Tensor(t.dtype as "float32", t.data as Float32Array, t.shape)] as const,
    );
    const results = await session.run(Object.fromEntries(fed));
    return Object.fromEntries(
      Object.entries(results).map(([name, t]) => [name, hostTensor(t.type as DType, [...t.dims], t.data as TypedArray)]),
    );
  } finally {
    await session.release();
  }
}
