import {
  atPath,
  constantOp,
  type Dim,
  type DType,
  EspalierError,
  type Graph,
  inputOp,
  type Node,
  reachable,
  readBy,
  type Tensor,
  type Traced,
  type TypedArray,
  type Variable,
  variableOp,
} from "../graph/index.ts";
import type { AnyOp, emission, Provider } from "../ops/index.ts";
import { DimNodes } from "./dims.ts";
import {
  type AttributeProto,
  type GraphProto,
  type NodeProto,
  onnxType,
  renameValues,
  type TensorProto,
  type ValueInfoProto,
  writeModel,
} from "./model.ts";
import { inWritingOrder } from "./order.ts";
import { placeInBranches } from "./placement.ts";

type Ref = emission.Ref;

/** Where the bytes of a frozen variable are, for ONNX Runtime to map: a file in the directory of the model file. */
export interface ExternalLocation {
  location: string;
  offset: number;
  byteLength: number;
}

export interface EncodeOptions {
  provider?: Provider;
  /** Says where a frozen variable's bytes lie, as `dtype`; undefined for one that is to be written into the model itself. */
  external?(variable: Variable, dtype: DType): ExternalLocation | undefined;
  /** The values of a frozen variable that is not external, as `dtype`. */
  values(variable: Variable, dtype: DType): TypedArray;
  /** Puts an output that is no tensor before all others; see `runtime/unreturned-results.ts`. */
  sentinel?: boolean;
  /**
   * The model is to be kept and run by others: variables that are not frozen are constants, too, as their storages are now, and every input is declared,
   * whether anything depends on it or not.
   */
  standalone?: boolean;
}

/** A model's bytes and the names by which a session knows its inputs and outputs. */
export interface EncodedModel {
  bytes: Uint8Array;
  /** Inputs that the caller feeds: those of the graph that anything depends on. */
  inputs: ReadonlyMap<string, Tensor>;
  outputs: ReadonlyMap<string, Tensor>;
  /** The name of the sentinel output, where one was asked for. */
  sentinel: string | undefined;
  /** Variables that are fed as inputs, by input name. */
  variables: ReadonlyMap<string, Variable>;
  /** New values of variables, by output name. */
  updates: ReadonlyMap<string, Variable>;
}

const versions = { ir: 10, opset: 21, contrib: 1 };

/** Encodes a traced graph as an ONNX ModelProto. Nothing that no output or update depends on is written. */
export function encode(traced: Traced, options: EncodeOptions): EncodedModel {
  return new Encoder(traced, options).encode();
}

class Encoder {
  readonly #traced: Traced;
  readonly #options: EncodeOptions;
  readonly #provider: Provider;
  readonly #names = new Map<Tensor, string>();
  /** Initializers of variables that are held in a narrower type than they compute in. */
  readonly #narrow = new Map<Tensor, ValueInfoProto>();
  readonly #emitted = new Map<emission.EmittedNode, string[]>();
  readonly #literals = new Map<string, string>();
  readonly #usedNames = new Set<string>();
  readonly #initializers: TensorProto[] = [];
  readonly #dims: DimNodes;
  readonly #variables = new Map<string, Variable>();
  readonly #inputs = new Map<string, Tensor>();
  /** Tensors that a node or a caller reads. */
  readonly #read = new Set<Tensor>();
  /** Names of values that are the same in every run. */
  readonly #constant = new Set<string>();
  /** How many nodes of a graph stand before its others. */
  readonly #early = new Map<NodeProto[], number>();
  #placement: ReadonlyMap<Node, Graph> = new Map();
  #counter = 0;

  constructor(traced: Traced, options: EncodeOptions) {
    this.#traced = traced;
    this.#options = options;
    this.#provider = options.provider ?? "cpu";
    this.#dims = new DimNodes({
      graph: traced.graph,
      unique: (base) => this.#unique(base),
      int64: (values) =>
        this.#literal({ kind: "literal", dtype: "int64", shape: [values.length], data: BigInt64Array.from(values, BigInt) }),
      input: (name, tensor) => {
        if (!this.#inputs.has(name)) this.#emitInput(tensor.node);
      },
    });
  }

  encode(): EncodedModel {
    const { graph, outputs } = this.#traced;
    // The caller's names are taken before any node asks for one.
    for (const name of [...graph.inputs.keys(), ...Object.keys(outputs)]) {
      if (this.#usedNames.has(name))
        throw new EspalierError("duplicate-name", `The program has both an input and an output named "${name}"; rename one.`);
      this.#usedNames.add(name);
    }
    const results = [...Object.values(outputs), ...graph.updates.values()];
    const live = reachable(results);
    this.#placement = placeInBranches(graph, live, results);
    const nodes: NodeProto[] = [];
    if (this.#options.standalone) for (const input of graph.inputs.values()) this.#emitInput(input.node);
    this.#emitGraph(graph, live, results, nodes);

    const output: ValueInfoProto[] = [];
    const computed = new Set(nodes.flatMap((n) => n.output));
    const renamed = new Map<string, string>();
    const publish = (name: string, tensor: Tensor) => {
      const value = this.#name(tensor, nodes);
      // The node that computes an output writes it under the output's name. What no node computes (an input, a constant) or what is published
      // already must be copied: ONNX Runtime lets no output alias another value.
      if (computed.has(value) && !renamed.has(value)) renamed.set(value, name);
      else nodes.push({ opType: "Identity", domain: "", name: `output/${name}`, input: [value], output: [name], attribute: [] });
      output.push(valueInfo(name, tensor));
    };
    const sentinel = this.#options.sentinel ? this.#unique("sentinel") : undefined;
    if (sentinel) {
      nodes.push({ opType: "SequenceEmpty", domain: "", name: sentinel, input: [], output: [sentinel], attribute: [] });
      output.push({ name: sentinel, dtype: "float32", sequence: true });
    }
    for (const [name, tensor] of Object.entries(outputs)) publish(name, tensor);
    const updates = new Map<string, Variable>();
    for (const [variable, tensor] of graph.updates) {
      const name = this.#unique(`${variable.name}.next`);
      publish(name, tensor);
      updates.set(name, variable);
    }
    renameValues(nodes, renamed);
    const fed = [...this.#inputs, ...[...this.#variables].map(([name, v]) => [name, graph.variables.get(v)!] as const)];
    // An initializer that is an input too has a value that may change: ONNX Runtime does not widen it beforehand.
    const overridable = this.#options.standalone ? [] : this.#narrow.values();
    const input = [...fed.map(([name, t]) => valueInfo(name, t)), ...overridable];
    const early = this.#early.get(nodes) ?? 0;
    nodes.splice(early, 0, ...this.#dims.nodes);
    // Other programs want nodes behind those that they read, and so does ONNX Runtime within branches.
    const inOrder = this.#options.standalone || this.#provider === "onnx" ? nodes : inWritingOrder(nodes, early);
    const bytes = writeModel({ name: "espalier", node: inOrder, initializer: this.#initializers, input, output }, versions);
    return {
      bytes,
      inputs: this.#inputs,
      outputs: new Map(Object.entries(outputs)),
      sentinel,
      variables: this.#variables,
      updates,
    };
  }

  #emitGraph(graph: Graph, live: ReadonlySet<Node>, results: readonly Tensor[], into: NodeProto[], moved: readonly Node[] = []): void {
    for (const t of readBy(live, results)) this.#read.add(t);
    const own = graph.nodes.filter((n) => live.has(n) && !this.#placement.has(n));
    for (const n of [...moved, ...own].sort((a, b) => a.id - b.id)) this.#emitNode(n, into);
  }

  #emitNode(n: Node, into: NodeProto[]): void {
    if (n.op === inputOp) {
      this.#emitInput(n);
      return;
    }
    if (n.op === constantOp) {
      const [t] = n.outputs as [Tensor];
      this.#names.set(t, this.#literal({ kind: "literal", dtype: t.dtype, shape: t.shape as number[], data: n.attrs.data as TypedArray }));
      return;
    }
    if (n.op === variableOp) {
      this.#emitVariable(n.attrs.variable as Variable, n.outputs[0]!);
      return;
    }
    const op = n.op as AnyOp;
    const refs = Object.fromEntries(Object.entries(n.inputs).map(([key, t]) => [key, t && ({ kind: "tensor", tensor: t } satisfies Ref)]));
    // Nodes of a graph that the operator makes within its own carry its path, too.
    const emitted = atPath(n.path, () =>
      op.definition.emit(refs, n.attrs, {
        inputs: n.inputs as never,
        outputs: n.outputs,
        provider: this.#provider,
        read: n.outputs.map((t) => this.#read.has(t)),
      }),
    );
    const list = (Array.isArray(emitted) ? emitted : [emitted]) as readonly Ref[];
    const label = n.path ? `${n.path}/${op.name}` : op.name;
    for (const [i, ref] of list.entries()) this.#names.set(n.outputs[i]!, this.#value(ref, label, into));
  }

  #emitInput(n: Node): void {
    if (this.#names.has(n.outputs[0]!)) return; // of a graph inside a node, which has named it
    const name = n.attrs.name as string;
    this.#names.set(n.outputs[0]!, name);
    this.#inputs.set(name, n.outputs[0]!);
  }

  #emitVariable(variable: Variable, tensor: Tensor): void {
    const name = this.#unique(variable.name);
    if (!variable.frozen && !this.#options.standalone) {
      this.#names.set(tensor, name);
      this.#variables.set(name, variable);
      return;
    }
    const { shape } = variable;
    const constantDtype = variable.frozen ? variable.constantDtype : undefined;
    if (constantDtype === "bfloat16" && this.#provider === "webgpu") {
      throw new EspalierError(
        "unsupported-dtype",
        `"${variable.name}" is to be held in bfloat16, which WebGPU does not know: it would be widened on the processor in every run. Hold it in float16 or float32.`,
      );
    }
    const dtype = constantDtype ?? variable.dtype;
    if (constantDtype) this.#narrow.set(tensor, { name, dtype, shape });
    else this.#names.set(tensor, name);
    const data = this.#options.external?.(variable, dtype) ?? rawBytes(this.#options.values(variable, dtype));
    this.#initializers.push({ name, dtype, shape, data });
    this.#constant.add(name);
  }

  /** Widens a value for one reader, so that it lives no longer than that takes: a node that stands before the others runs just before its reader (`order.ts`). */
  #widened(narrow: string, dtype: DType, into: NodeProto[]): string {
    const name = this.#unique(`${narrow}/${dtype}`);
    this.#putEarly(cast(narrow, name, dtype), into);
    this.#constant.add(name);
    return name;
  }

  /**
   * A node that reads constants only, as when a quantised weight is unpacked: it stands before the others for the reason of {@link #widened}, so that
   * its result lives from its first reader to its last and not from the beginning.
   */
  #putEarly(node: NodeProto, into: NodeProto[]): void {
    const count = this.#early.get(into) ?? 0;
    into.splice(count, 0, node);
    this.#early.set(into, count + 1);
  }

  /** The name of the value behind a reference; emits the nodes that compute it. */
  #value(ref: Ref, label: string, into: NodeProto[]): string {
    if (ref.kind === "tensor") return this.#name(ref.tensor, into);
    if (ref.kind === "literal") return this.#literal(ref);
    if (ref.kind === "dims") return this.#dims.vector(ref.dims);
    const known = this.#emitted.get(ref.of);
    if (known) return known[ref.index]!;
    const { opType, domain, inputs, attributes, outputCount } = ref.of;
    // Rows are taken from a table as it is held, and only they are widened.
    const table = (opType === "Gather" || opType === "Slice") && inputs[0]?.kind === "tensor" ? inputs[0].tensor : undefined;
    const narrow = table && this.#narrow.get(table);
    const input = inputs.map((r, i) => (narrow && i === 0 ? narrow.name : r ? this.#value(r, label, into) : ""));
    while (input.at(-1) === "") input.pop();
    const name = this.#unique(label.endsWith(`/${opType}`) || label === opType ? label : `${label}/${opType}`);
    const output = Array.from({ length: outputCount }, (_, i) => (i === 0 ? name : `${name}:${i}`));
    const attribute = Object.entries(attributes).map(([key, value]) => this.#attribute(key, value, label, into));
    const isConstant = input.length > 0 && input.every((i) => this.#constant.has(i)) && !attribute.some((a) => "graph" in a);
    const put = (n: NodeProto) => (isConstant ? this.#putEarly(n, into) : into.push(n));
    if (narrow) {
      const rows = this.#unique(`${name}/${narrow.dtype}`);
      put({ opType, domain, name: rows, input, output: [rows], attribute });
      put(cast(rows, name, table.dtype));
    } else put({ opType, domain, name, input, output, attribute });
    if (isConstant) for (const o of output) this.#constant.add(o);
    this.#emitted.set(ref.of, output);
    return output[ref.index]!;
  }

  #name(tensor: Tensor, into: NodeProto[]): string {
    const narrow = this.#narrow.get(tensor);
    if (narrow) return this.#widened(narrow.name, tensor.dtype, into);
    const name = this.#names.get(tensor);
    if (name === undefined)
      throw new Error(
        `the value of ${tensor.node.op.name} (node ${tensor.node.id}, ${tensor.node.path}) is used in a graph that cannot see it`,
      );
    return name;
  }

  #attribute(name: string, value: emission.Attribute, label: string, into: NodeProto[]): AttributeProto {
    if (typeof value === "number") return { name, int: value };
    if (typeof value === "string") return { name, string: value };
    if (Array.isArray(value)) return { name, ints: value };
    if ("float" in value) return { name, float: value.float };
    if ("floats" in value) return { name, floats: value.floats };
    if ("dtype" in value) return { name, int: onnxType[value.dtype] };
    const inner = value as emission.GraphAttribute;
    for (const [t, ref] of inner.outer ?? []) this.#names.set(t, this.#value(ref, label, into));
    return { name, graph: this.#inner(name, inner) };
  }

  #inner(name: string, { graph, results, inputs = [] }: emission.GraphAttribute): GraphProto {
    const node: NodeProto[] = [];
    const input = inputs.map((t) => {
      const own = this.#unique(`${name}/input`);
      this.#names.set(t, own);
      return valueInfo(own, t);
    });
    const moved = [...this.#placement].filter(([, g]) => g === graph).map(([n]) => n);
    this.#emitGraph(graph, reachable(results), results, node, moved);
    const output = results.map((t) => {
      const out = this.#unique(`${name}/result`);
      node.push({ opType: "Identity", domain: "", name: out, input: [this.#name(t, node)], output: [out], attribute: [] });
      return valueInfo(out, t);
    });
    return { name: this.#unique(name), node, initializer: [], input, output };
  }

  #literal(literal: Extract<Ref, { kind: "literal" }>): string {
    const key = literal.data.length <= 64 ? `${literal.dtype}[${literal.shape}]:${rawBytes(literal.data).join()}` : undefined;
    const known = key === undefined ? undefined : this.#literals.get(key);
    if (known !== undefined) return known;
    const name = this.#unique("literal");
    this.#constant.add(name);
    this.#initializers.push({ name, dtype: literal.dtype, shape: literal.shape, data: rawBytes(literal.data) });
    if (key !== undefined) this.#literals.set(key, name);
    return name;
  }

  #unique(base: string): string {
    let name = base;
    while (this.#usedNames.has(name)) name = `${base}_${++this.#counter}`;
    this.#usedNames.add(name);
    return name;
  }
}

const cast = (from: string, to: string, dtype: DType): NodeProto => ({
  opType: "Cast",
  domain: "",
  name: to,
  input: [from],
  output: [to],
  attribute: [{ name: "to", int: onnxType[dtype] }],
});

export const rawBytes = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

const valueInfo = (name: string, { dtype, shape }: { dtype: DType; shape: readonly Dim[] }): ValueInfoProto => ({ name, dtype, shape });
