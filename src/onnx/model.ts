/** The messages of onnx.proto that a model of ours consists of, and how they are written. */
import type { Dim, DType } from "../graph/index.ts";
import { Wire } from "./wire.ts";

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

export type AttributeProto = { name: string } & (
  | { int: number }
  | { float: number }
  | { string: string }
  | { ints: readonly number[] }
  | { floats: readonly number[] }
  | { graph: GraphProto }
);

export interface NodeProto {
  opType: string;
  domain: string;
  name: string;
  input: string[];
  output: string[];
  attribute: AttributeProto[];
}

/** A value's name and type; `sequence` for a sequence of tensors of that type. */
export interface ValueInfoProto {
  name: string;
  dtype: DType;
  shape?: readonly Dim[];
  sequence?: boolean;
}

export interface TensorProto {
  name: string;
  dtype: DType;
  shape: readonly number[];
  /** The values themselves, or where they lie in another file. */
  data: Uint8Array | { location: string; offset: number; byteLength: number };
}

export interface GraphProto {
  name: string;
  node: readonly NodeProto[];
  initializer: readonly TensorProto[];
  input: readonly ValueInfoProto[];
  output: readonly ValueInfoProto[];
}

/** Renames values wherever they are written or read, branches included. */
export function renameValues(nodes: readonly NodeProto[], names: ReadonlyMap<string, string>): void {
  const renamed = (value: string) => names.get(value) ?? value;
  for (const n of nodes) {
    n.input = n.input.map(renamed);
    n.output = n.output.map(renamed);
    for (const a of n.attribute) if ("graph" in a) renameValues(a.graph.node, names);
  }
}

const attributeType = { float: 1, int: 2, string: 3, graph: 5, floats: 6, ints: 7 } as const;

/** A ModelProto. */
export function writeModel(graph: GraphProto, versions: { ir: number; opset: number; contrib: number }): Uint8Array {
  const inline = graph.initializer.reduce((n, { data }) => n + (data instanceof Uint8Array ? data.length : 0), 0);
  const w = new Wire(inline + (1 << 17));
  w.int(1, versions.ir);
  w.string(2, "espalier");
  w.message(7, () => writeGraph(w, graph));
  for (const [domain, version] of [
    ["", versions.opset],
    ["com.microsoft", versions.contrib],
  ] as const) {
    w.message(8, () => {
      w.string(1, domain);
      w.int(2, version);
    });
  }
  return w.finish();
}

function writeGraph(w: Wire, graph: GraphProto): void {
  for (const n of graph.node) w.message(1, () => writeNode(w, n));
  w.string(2, graph.name);
  for (const t of graph.initializer) w.message(5, () => writeTensor(w, t));
  for (const v of graph.input) w.message(11, () => writeValueInfo(w, v));
  for (const v of graph.output) w.message(12, () => writeValueInfo(w, v));
}

function writeNode(w: Wire, n: NodeProto): void {
  w.strings(1, n.input);
  w.strings(2, n.output);
  w.string(3, n.name);
  w.string(4, n.opType);
  for (const a of n.attribute) w.message(5, () => writeAttribute(w, a));
  if (n.domain !== "") w.string(7, n.domain);
}

function writeAttribute(w: Wire, a: AttributeProto): void {
  w.string(1, a.name);
  const type = (kind: keyof typeof attributeType) => w.int(20, attributeType[kind]);
  if ("int" in a) {
    w.int(3, a.int);
    type("int");
  } else if ("float" in a) {
    w.float(2, a.float);
    type("float");
  } else if ("string" in a) {
    w.string(4, a.string);
    type("string");
  } else if ("ints" in a) {
    w.ints(8, a.ints);
    type("ints");
  } else if ("floats" in a) {
    w.floats(7, a.floats);
    type("floats");
  } else {
    w.message(6, () => writeGraph(w, a.graph));
    type("graph");
  }
}

function writeTensor(w: Wire, t: TensorProto): void {
  w.ints(1, t.shape);
  w.int(2, onnxType[t.dtype]);
  w.string(8, t.name);
  const { data } = t;
  if (data instanceof Uint8Array) {
    w.bytes(9, data);
    return;
  }
  const entries = { location: data.location, offset: String(data.offset), length: String(data.byteLength) };
  for (const [key, value] of Object.entries(entries)) {
    w.message(13, () => {
      w.string(1, key);
      w.string(2, value);
    });
  }
  w.int(14, 1); // EXTERNAL
}

function writeValueInfo(w: Wire, v: ValueInfoProto): void {
  const tensor = () =>
    w.message(1, () => {
      w.int(1, onnxType[v.dtype]);
      const { shape } = v;
      if (!shape) return;
      w.message(2, () => {
        for (const d of shape) w.message(1, () => (typeof d === "number" ? w.int(1, d) : w.string(2, d.toString())));
      });
    });
  w.string(1, v.name);
  // TypeProto: a tensor, or a sequence (field 4) of another TypeProto.
  w.message(2, () => (v.sequence ? w.message(4, () => w.message(1, tensor)) : tensor()));
}
