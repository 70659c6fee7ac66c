/** Reads the messages of onnx.proto that a model consists of. */
import { type DType, EspalierError } from "../../graph/index.ts";
import { onnxType } from "../model.ts";
import { type Field, WireError, WireReader } from "../wire-reader.ts";
import type {
  AttributeValue,
  NumberField,
  OnnxFile,
  OnnxFunction,
  OnnxGraph,
  OnnxNode,
  OnnxTensor,
  OnnxValueInfo,
  StoredType,
  TensorData,
} from "./model-file.ts";

const dtypes = new Map<number, StoredType>([
  ...Object.entries(onnxType).map(([dtype, code]) => [code, dtype as DType] as const),
  [21, "uint4"],
  [22, "int4"],
]);

/** onnx.proto's names of element types that are not ours. */
const foreignTypes: Readonly<Record<number, string>> = {
  0: "undefined",
  4: "uint16",
  5: "int16",
  8: "string",
  12: "uint32",
  13: "uint64",
  14: "complex64",
  15: "complex128",
  17: "float8e4m3fn",
  18: "float8e4m3fnuz",
  19: "float8e5m2",
  20: "float8e5m2fnuz",
  23: "float4e2m1",
};

export const typeName = (code: number): string => dtypes.get(code) ?? foreignTypes[code] ?? `type ${code}`;

/** Graphs within graphs go no deeper than this in any model; a damaged file may claim anything. */
const maxDepth = 16;

/**
 * Reads an .onnx file's messages.
 *
 * @param file what error messages call the bytes
 * @throws EspalierError `onnx-damaged` where the bytes are no ONNX model
 */
export function parseOnnx(bytes: Uint8Array, file: string): OnnxFile {
  try {
    return readModel(new WireReader(bytes), file);
  } catch (cause) {
    if (!(cause instanceof WireError)) throw cause;
    throw new EspalierError(
      "onnx-damaged",
      `${file}: is not an ONNX model, or a damaged one: ${cause.message}. Fetch or export it again (a Git LFS pointer is a few lines of text: run "git lfs pull").`,
      { cause },
    );
  }
}

/** Reads every field of a message by number; others are skipped. */
function fields(r: WireReader, read: Readonly<Record<number, (field: Field) => void>>): void {
  for (let field = r.next(); field; field = r.next()) {
    const reader = read[field.number];
    if (reader) reader(field);
    else r.skip(field);
  }
}

function readModel(r: WireReader, file: string): OnnxFile {
  const model: { graph?: OnnxGraph; producer: string } = { producer: "" };
  const opsets = new Map<string, number>();
  const functions = new Map<string, OnnxFunction>();
  fields(r, {
    2: (f) => {
      model.producer = r.string(f);
    },
    7: (f) => {
      model.graph = readGraph(r.message(f), 0);
    },
    8: (f) => readOpset(r.message(f), opsets),
    25: (f) => readFunction(r.message(f), functions),
  });
  const { graph, producer } = model;
  if (!graph) throw new WireError("it holds no graph");
  return { file, graph, opsets, functions, producer };
}

function readOpset(r: WireReader, into: Map<string, number>): void {
  let domain = "";
  let version = 1;
  fields(r, {
    1: (f) => {
      domain = r.string(f);
    },
    2: (f) => {
      version = r.int(f);
    },
  });
  into.set(domain === "ai.onnx" ? "" : domain, version);
}

function readGraph(r: WireReader, depth: number): OnnxGraph {
  if (depth > maxDepth) throw new WireError(`graphs are nested deeper than ${maxDepth}`);
  let name = "";
  const nodes: OnnxNode[] = [];
  const initializers = new Map<string, OnnxTensor>();
  const inputs: OnnxValueInfo[] = [];
  const outputs: OnnxValueInfo[] = [];
  fields(r, {
    1: (f) => nodes.push(readNode(r.message(f), depth)),
    2: (f) => {
      name = r.string(f);
    },
    5: (f) => {
      const tensor = readTensor(r.message(f));
      initializers.set(tensor.name, tensor);
    },
    11: (f) => inputs.push(readValueInfo(r.message(f))),
    12: (f) => outputs.push(readValueInfo(r.message(f))),
  });
  // Before IR version 4 every initialiser was listed as an input with a default value, too.
  return { name, nodes, initializers, inputs: inputs.filter((i) => !initializers.has(i.name)), outputs };
}

function readNode(r: WireReader, depth: number): OnnxNode {
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attributes = new Map<string, AttributeValue>();
  const metadata = new Map<string, string>();
  let [name, opType, domain] = ["", "", ""];
  fields(r, {
    1: (f) => inputs.push(r.string(f)),
    2: (f) => outputs.push(r.string(f)),
    3: (f) => {
      name = r.string(f);
    },
    4: (f) => {
      opType = r.string(f);
    },
    5: (f) => readAttribute(r.message(f), depth, attributes),
    7: (f) => {
      domain = r.string(f);
    },
    9: (f) => readEntry(r.message(f), metadata),
  });
  return { opType, domain: domain === "ai.onnx" ? "" : domain, name, inputs, outputs, attributes, metadata };
}

function readEntry(r: WireReader, into: Map<string, string>): void {
  let [key, value] = ["", ""];
  fields(r, {
    1: (f) => {
      key = r.string(f);
    },
    2: (f) => {
      value = r.string(f);
    },
  });
  into.set(key, value);
}

/** AttributeProto.AttributeType. */
const attributeKinds = ["", "float", "int", "string", "tensor", "graph", "floats", "ints", "strings"] as const;

function readAttribute(r: WireReader, depth: number, into: Map<string, AttributeValue>): void {
  let name = "";
  let type = 0;
  let reference = "";
  let [f32, i64, text] = [0, 0, ""];
  const nested: { tensor?: OnnxTensor; graph?: OnnxGraph } = {};
  const floats: number[] = [];
  const ints: number[] = [];
  const strings: string[] = [];
  fields(r, {
    1: (f) => {
      name = r.string(f);
    },
    2: (f) => {
      f32 = r.float(f);
    },
    3: (f) => {
      i64 = r.int(f);
    },
    4: (f) => {
      text = r.string(f);
    },
    5: (f) => {
      nested.tensor = readTensor(r.message(f));
    },
    6: (f) => {
      nested.graph = readGraph(r.message(f), depth + 1);
    },
    7: (f) => r.floats(f, floats),
    8: (f) => r.ints(f, ints),
    9: (f) => strings.push(r.string(f)),
    20: (f) => {
      type = r.int(f);
    },
    21: (f) => {
      reference = r.string(f);
    },
  });
  const { tensor, graph } = nested;
  const values: Record<(typeof attributeKinds)[number], AttributeValue> = {
    "": { kind: "other" },
    float: { kind: "float", value: f32 },
    int: { kind: "int", value: i64 },
    string: { kind: "string", value: text },
    tensor: tensor ? { kind: "tensor", value: tensor } : { kind: "other" },
    graph: graph ? { kind: "graph", value: graph } : { kind: "other" },
    floats: { kind: "floats", value: floats },
    ints: { kind: "ints", value: ints },
    strings: { kind: "strings", value: strings },
  };
  into.set(name, reference ? { kind: "reference", value: reference } : values[attributeKinds[type] ?? ""]);
}

/** Fields of TensorProto that hold numbers. */
const numberFields: Readonly<Record<number, NumberField>> = { 4: "float", 5: "int32", 7: "int64", 10: "double", 11: "uint64" };

function readTensor(r: WireReader): OnnxTensor {
  let name = "";
  let typeCode = 0;
  const held: { raw?: { offset: number; byteLength: number } } = {};
  let isExternal = false;
  let of: NumberField = "float";
  const shape: number[] = [];
  const external = new Map<string, string>();
  const parts: Uint8Array[] = [];
  // Copies, so that the file's bytes need not live as long as the model.
  const numbers = (f: Field) => {
    of = numberFields[f.number]!;
    const before = r.position;
    if (f.type === 2) parts.push(r.bytesOf(f).slice());
    else {
      r.skip(f);
      parts.push(r.bytes.slice(before, r.position));
    }
  };
  fields(r, {
    1: (f) => r.ints(f, shape),
    2: (f) => {
      typeCode = r.int(f);
    },
    4: numbers,
    5: numbers,
    7: numbers,
    8: (f) => {
      name = r.string(f);
    },
    9: (f) => {
      const { position, end } = r.message(f);
      held.raw = { offset: position, byteLength: end - position };
    },
    10: numbers,
    11: numbers,
    13: (f) => readEntry(r.message(f), external),
    14: (f) => {
      isExternal = r.int(f) === 1;
    },
  });
  const length = external.get("length");
  const data: TensorData = isExternal
    ? {
        kind: "external",
        location: external.get("location") ?? "",
        offset: Number(external.get("offset") ?? 0),
        byteLength: length === undefined ? undefined : Number(length),
      }
    : held.raw
      ? { kind: "raw", ...held.raw }
      : { kind: "numbers", of, parts };
  return { name, dtype: dtypes.get(typeCode), typeCode, shape, data };
}

function readValueInfo(r: WireReader): OnnxValueInfo {
  let name = "";
  let typeCode = 0;
  const known: { shape?: (number | string | undefined)[] } = {};
  const dimension = (d: WireReader): number | string | undefined => {
    let size: number | string | undefined;
    fields(d, {
      1: (f) => {
        size = d.int(f);
      },
      2: (f) => {
        size = d.string(f) || undefined;
      },
    });
    return size;
  };
  const tensorType = (t: WireReader) =>
    fields(t, {
      1: (f) => {
        typeCode = t.int(f);
      },
      2: (f) => {
        const s = t.message(f);
        const sizes: (number | string | undefined)[] = [];
        fields(s, { 1: (d) => sizes.push(dimension(s.message(d))) });
        known.shape = sizes;
      },
    });
  fields(r, {
    1: (f) => {
      name = r.string(f);
    },
    2: (f) => {
      const t = r.message(f);
      fields(t, { 1: (inner) => tensorType(t.message(inner)) });
    },
  });
  const dtype = dtypes.get(typeCode);
  return { name, dtype: dtype === "int4" || dtype === "uint4" ? undefined : dtype, typeCode, shape: known.shape };
}

function readFunction(r: WireReader, into: Map<string, OnnxFunction>): void {
  let [name, domain] = ["", ""];
  const inputs: string[] = [];
  const outputs: string[] = [];
  const nodes: OnnxNode[] = [];
  const defaults = new Map<string, AttributeValue>();
  fields(r, {
    1: (f) => {
      name = r.string(f);
    },
    4: (f) => inputs.push(r.string(f)),
    5: (f) => outputs.push(r.string(f)),
    7: (f) => nodes.push(readNode(r.message(f), 0)),
    10: (f) => {
      domain = r.string(f);
    },
    11: (f) => readAttribute(r.message(f), 0, defaults),
  });
  into.set(`${domain}:${name}`, { inputs, outputs, nodes, defaults });
}
