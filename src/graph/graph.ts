import { type Shape, shapesEqual } from "./dims.ts";
import { type DType, isFloat, type TypedArray } from "./dtype.ts";
import { EspalierError } from "./errors.ts";
import type { Storage } from "./storage.ts";

/** What is known of a value before anything runs. */
export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** What the graph needs to know of an operator; `ops/` holds the rest. */
export interface Operator {
  readonly name: string;
}

/** One application of an operator. `path` is the module path that was being traced (`model.layers.3.mlp`). */
export interface Node {
  readonly id: number;
  readonly op: Operator;
  readonly inputs: Readonly<Record<string, Tensor | undefined>>;
  readonly attrs: Readonly<Record<string, unknown>>;
  readonly outputs: readonly Tensor[];
  readonly path: string;
  readonly graph: Graph;
}

/** A handle on a value of a graph. It holds no numbers: ONNX Runtime computes them when the graph runs. */
export class Tensor implements TensorType {
  readonly node: Node;
  /** Which output of `node` this is. */
  readonly index: number;
  readonly dtype: DType;
  readonly shape: Shape;

  constructor(node: Node, index: number, type: TensorType) {
    this.node = node;
    this.index = index;
    this.dtype = type.dtype;
    this.shape = type.shape;
  }

  get graph(): Graph {
    return this.node.graph;
  }

  get rank(): number {
    return this.shape.length;
  }
}

/**
 * A value that outlives one run: a weight, an optimizer moment, a step counter. Graphs refer to it by identity, and
 * {@link assign} says what it becomes at the end of a run.
 */
export class Variable implements TensorType {
  name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** A frozen variable is compiled into the program as a constant, mapped from its file where it has one. */
  frozen: boolean;
  /**
   * The type in which programs hold the values of a frozen float32 variable, to widen them in every run: half the memory of float32 for the time
   * of a pass over them. Values stored in a wider type are rounded. Default: float32, for which no time is lost.
   */
  constantDtype: "float16" | "bfloat16" | undefined;
  #storage: Storage | (() => Storage);
  #version = 0;

  /** `storage` may be a function, called when the values are first needed: a weight that a checkpoint replaces is never initialised. */
  constructor(
    name: string,
    type: { dtype: DType; shape: readonly number[] },
    storage: Storage | (() => Storage),
    options: { frozen?: boolean } = {},
  ) {
    this.name = name;
    this.dtype = type.dtype;
    this.shape = type.shape;
    this.#storage = storage;
    this.frozen = options.frozen ?? false;
  }

  /**
   * Initial (or, when frozen, permanent) values. Setting them replaces the present values on every device; a program that was compiled while
   * the variable was frozen keeps the constant that it was compiled with.
   *
   * A float32 variable takes values stored in any float type: whoever reads them widens (float64: rounds) them then, a device when it first
   * needs them. Any other difference of type or shape is refused as `shape-mismatch`.
   */
  get storage(): Storage {
    if (typeof this.#storage === "function") this.#storage = this.#storage();
    return this.#storage;
  }

  /** Counts the storages that the variable was given: a device that holds values of an earlier one takes them anew. */
  get version(): number {
    return this.#version;
  }

  set storage(storage: Storage) {
    const readable = storage.dtype === this.dtype || (this.dtype === "float32" && isFloat(storage.dtype));
    if (!readable || !shapesEqual(storage.shape, this.shape)) {
      throw new EspalierError(
        "shape-mismatch",
        `"${this.name}" is ${this.dtype} [${this.shape}] and cannot hold ${storage.dtype} [${storage.shape}].`,
      );
    }
    this.#storage = storage;
    this.#version++;
  }
}

/** Leaves of a graph: values that no operator computes. */
export const inputOp: Operator = { name: "Input" };
export const constantOp: Operator = { name: "Constant" };
export const variableOp: Operator = { name: "Variable" };

let nextNodeId = 0;

/** A directed acyclic graph of nodes in the order of their creation, which is a topological order. */
export class Graph {
  readonly nodes: Node[] = [];
  /** The graph whose values this one may read, when this is a branch of a control-flow operator. */
  readonly parent: Graph | undefined;
  readonly inputs = new Map<string, Tensor>();
  /** What each variable becomes at the end of a run. */
  readonly updates = new Map<Variable, Tensor>();
  readonly #variables = new Map<Variable, Tensor>();
  readonly #constants = new Map<string, Tensor>();
  readonly #counts = new Map<string, number>();

  constructor(parent?: Graph) {
    this.parent = parent;
  }

  add(op: Operator, inputs: Node["inputs"], attrs: Node["attrs"], types: readonly TensorType[]): Node {
    const outputs: Tensor[] = [];
    const node: Node = { id: nextNodeId++, op, inputs, attrs, outputs, path: currentPath(), graph: this };
    for (const [index, type] of types.entries()) outputs.push(new Tensor(node, index, type));
    this.nodes.push(node);
    return node;
  }

  /** Declares a value that the caller feeds at every run. Names are unique. */
  input(name: string, dtype: DType, shape: Shape): Tensor {
    if (this.inputs.has(name)) throw new EspalierError("duplicate-input", `The graph already has an input named "${name}".`);
    const tensor = this.add(inputOp, {}, { name }, [{ dtype, shape }]).outputs[0]!;
    this.inputs.set(name, tensor);
    return tensor;
  }

  /** A literal. Small ones are shared within the graph. */
  constant(dtype: DType, shape: readonly number[], data: TypedArray): Tensor {
    const key =
      data.length <= 16
        ? `${dtype}[${shape}]${Array.from(data as ArrayLike<number | bigint>, (v) => (Object.is(v, -0) ? "-0" : `${v}`)).join()}`
        : undefined;
    const known = key === undefined ? undefined : this.#constants.get(key);
    if (known) return known;
    const tensor = this.add(constantOp, {}, { data }, [{ dtype, shape }]).outputs[0]!;
    if (key !== undefined) this.#constants.set(key, tensor);
    return tensor;
  }

  /** The value of a variable at the start of the run. All uses within one program share one leaf. */
  variable(variable: Variable): Tensor {
    if (this.parent) return this.parent.variable(variable);
    let leaf = this.#variables.get(variable);
    if (!leaf) {
      leaf = this.add(variableOp, {}, { variable }, [{ dtype: variable.dtype, shape: variable.shape }]).outputs[0]!;
      this.#variables.set(variable, leaf);
    }
    return leaf;
  }

  /** The outermost graph: this one, unless it is a branch. */
  get root(): Graph {
    return this.parent ? this.parent.root : this;
  }

  /** How often this was called with `key` for a graph of the program before: tells apart what would be named alike. */
  count(key: string): number {
    const { root } = this;
    const before = root.#counts.get(key) ?? 0;
    root.#counts.set(key, before + 1);
    return before;
  }

  get variables(): ReadonlyMap<Variable, Tensor> {
    return this.#variables;
  }
}

const graphs: Graph[] = [];
let path = "";

/** The graph being traced; throws outside of {@link tracing}. */
export function currentGraph(): Graph {
  const graph = graphs.at(-1);
  if (!graph)
    throw new EspalierError("not-tracing", "Operators can be called only while a graph is traced: wrap the call in trace(…) or jit(…).");
  return graph;
}

/** Runs `fn` with `graph` as the graph that operators add their nodes to. */
export function tracing<T>(graph: Graph, fn: () => T): T {
  graphs.push(graph);
  try {
    return fn();
  } finally {
    graphs.pop();
  }
}

/** The module path that nodes and shape errors carry; empty outside of modules. */
export const currentPath = (): string => path;

/** Runs `fn` under this module path: the backward pass names its nodes after the forward ones. */
export function atPath<T>(inner: string, fn: () => T): T {
  const outer = path;
  path = inner;
  try {
    return fn();
  } finally {
    path = outer;
  }
}

/** The present value of a variable in the graph being traced. */
export const read = (variable: Variable): Tensor => currentGraph().variable(variable);

/** Records what `variable` becomes when the run ends; the last call for a variable counts. */
export function assign(variable: Variable, value: Tensor): void {
  if (value.dtype !== variable.dtype || !shapesEqual(value.shape, variable.shape)) {
    throw new EspalierError(
      "shape-mismatch",
      `Cannot assign ${value.dtype} [${value.shape}] to variable "${variable.name}" of ${variable.dtype} [${variable.shape}].`,
    );
  }
  if (variable.frozen) throw new EspalierError("frozen", `Variable "${variable.name}" is frozen; unfreeze it before an update is traced.`);
  const graph = currentGraph();
  if (graph.parent) {
    throw new EspalierError(
      "assign-in-branch",
      `Variable "${variable.name}" is assigned within a branch of when(…). Return the new value from the branch, the old one from the other, and assign the result of when outside: assign(v, when(gate, () => [next], () => [read(v)])[0]).`,
    );
  }
  graph.updates.set(variable, value);
}

/** Graph, inputs by name and outputs by name: what the runtime compiles. */
export interface Traced {
  readonly graph: Graph;
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** Traces `fn` over fresh inputs of the given types. */
export function trace<I extends Record<string, TensorType>>(
  types: I,
  fn: (inputs: { [K in keyof I]: Tensor }) => Record<string, Tensor>,
): Traced {
  const graph = new Graph();
  return tracing(graph, () => {
    const inputs = Object.fromEntries(Object.entries(types).map(([name, t]) => [name, graph.input(name, t.dtype, t.shape)]));
    return { graph, outputs: fn(inputs as { [K in keyof I]: Tensor }) };
  });
}

/** Every node that the results depend on, in the graphs that enclose them too. */
export function reachable(results: readonly Tensor[]): Set<Node> {
  const seen = new Set<Node>();
  const stack = results.map((t) => t.node);
  while (stack.length > 0) {
    const n = stack.pop()!;
    if (seen.has(n)) continue;
    seen.add(n);
    for (const t of Object.values(n.inputs)) if (t) stack.push(t.node);
  }
  return seen;
}

/** The results, and every tensor that one of the nodes reads. */
export function readBy(nodes: Iterable<Node>, results: readonly Tensor[]): Set<Tensor> {
  const read = new Set(results);
  for (const n of nodes) for (const t of Object.values(n.inputs)) if (t) read.add(t);
  return read;
}
