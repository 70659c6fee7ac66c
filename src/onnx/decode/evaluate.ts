import { atPath, EspalierError, nearestNames, type Tensor } from "../../graph/index.ts";
import { Agreement } from "./agreement.ts";
import { describe, NodeContext, type Result } from "./context.ts";
import { fold } from "./fold.ts";
import type { AttributeValue, OnnxFile, OnnxFunction, OnnxGraph, OnnxNode, OnnxTensor } from "./model-file.ts";
import { tracePath } from "./names.ts";
import { operatorNames, ruleFor } from "./rules/index.ts";
import { Value } from "./value.ts";

/** A layer that stands in the place of some nodes: it computes the output of the last of them from one value. */
export interface Site {
  /** The value that the layer reads. */
  readonly input: string;
  /** The layer; asked for at every evaluation, because an adapter may have taken its place. */
  readonly layer: () => (x: Tensor) => Tensor;
  /** The node's rule does the rest, as with an Attention whose projection this is; otherwise the layer is all there is. */
  readonly partial?: boolean;
}

/** Where values come from that no node computes. */
export interface Source {
  /** An initialiser of the outermost graph. */
  initializer(tensor: OnnxTensor): Value;
  /** A tensor within a node, or an initialiser of a branch. */
  literal(tensor: OnnxTensor): Value;
  /** Layers in the place of nodes, by the node whose output they compute. */
  readonly sites: ReadonlyMap<OnnxNode, Site>;
}

/**
 * Rebuilds a file's graph, node by node, in the graph being traced: the values of its outputs for the given values of its inputs. Only what the wanted
 * outputs depend on is looked at.
 *
 * @throws EspalierError that names the file and the node: `onnx-unsupported` (an operator), `onnx-dynamic-shape`, `onnx-control-flow`, `onnx-node`,
 *   `shape-mismatch`
 */
export function evaluate(
  file: OnnxFile,
  source: Source,
  inputs: ReadonlyMap<string, Value>,
  outputs: readonly string[],
): Map<string, Value> {
  const scope = new Scope(file, source, undefined, file.graph.initializers, (t) => source.initializer(t));
  for (const [name, value] of inputs) scope.define(name, value);
  scope.run(file.graph.nodes, outputs);
  return new Map(outputs.map((name) => [name, scope.lookup(name)]));
}

class Scope {
  readonly #file: OnnxFile;
  readonly #source: Source;
  readonly #outer: Scope | undefined;
  readonly #initializers: ReadonlyMap<string, OnnxTensor>;
  readonly #initializer: (tensor: OnnxTensor) => Value;
  readonly #attributes: ReadonlyMap<string, AttributeValue> | undefined;
  readonly #values = new Map<string, Value>();
  readonly #depth: number;

  constructor(
    file: OnnxFile,
    source: Source,
    outer: Scope | undefined,
    initializers: ReadonlyMap<string, OnnxTensor>,
    initializer: (tensor: OnnxTensor) => Value,
    attributes?: ReadonlyMap<string, AttributeValue>,
    depth = 0,
  ) {
    this.#file = file;
    this.#source = source;
    this.#outer = outer;
    this.#initializers = initializers;
    this.#initializer = initializer;
    this.#attributes = attributes;
    this.#depth = depth;
  }

  define(name: string, value: Value): void {
    this.#values.set(name, value);
  }

  lookup(name: string): Value {
    const value = this.#find(name);
    if (value) return value;
    throw new EspalierError("onnx-node", `${this.#file.file}: "${name}" is read, but no node before computes it. The file is damaged.`);
  }

  #find(name: string): Value | undefined {
    const known = this.#values.get(name);
    if (known) return known;
    const tensor = this.#initializers.get(name);
    if (!tensor) return this.#outer ? this.#outer.#find(name) : undefined;
    const value = this.#initializer(tensor);
    this.#values.set(name, value);
    return value;
  }

  /** Evaluates the nodes that the outputs depend on, in their order. */
  run(nodes: readonly OnnxNode[], outputs: readonly string[]): void {
    const { sites } = this.#source;
    const read = new Set(outputs);
    const needed = new Set<OnnxNode>();
    for (const node of [...nodes].reverse()) {
      if (!node.outputs.some((name) => name !== "" && read.has(name) && !this.#values.has(name))) continue;
      needed.add(node);
      const site = sites.get(node);
      for (const name of site && !site.partial ? [site.input] : readBy(node)) read.add(name);
    }
    for (const node of nodes) if (needed.has(node)) this.#evaluate(node, read);
  }

  #evaluate(node: OnnxNode, read: ReadonlySet<string>): void {
    try {
      const results = atPath(tracePath(node), () => this.#results(node, read));
      for (const [i, result] of results.entries()) {
        const name = node.outputs[i];
        if (name && result) this.define(name, result instanceof Value ? result : Value.of(result));
      }
    } catch (cause) {
      throw this.#located(node, cause);
    }
  }

  #results(node: OnnxNode, read: ReadonlySet<string>): readonly Result[] {
    const site = this.#source.sites.get(node);
    if (site && !site.partial) return [site.layer()(this.lookup(site.input).tensor)];
    const inputs = node.inputs.map((name) => (name === "" ? undefined : this.lookup(name)));
    const local = this.#file.functions.get(`${node.domain}:${node.opType}`);
    if (local) return this.#call(local, node, inputs);
    const context = new NodeContext(node, this.#file.opsets.get(node.domain) ?? 1, inputs, {
      tensor: (t) => this.#source.literal(t),
      inline: (graph) => this.#inline(graph),
      attributes: this.#attributes,
      isRead: (name) => read.has(name),
      layer: site?.layer(),
    });
    const known = fold(context);
    if (known) return [Value.known(known)];
    const rule = ruleFor(node.domain, node.opType);
    if (!rule) throw unsupported(node);
    const results = rule(context);
    return Array.isArray(results) ? (results as readonly Result[]) : [results as Result];
  }

  /** The nodes of a function in the place of its call. */
  #call(local: OnnxFunction, node: OnnxNode, inputs: readonly (Value | undefined)[]): readonly Result[] {
    const attributes = new Map([...local.defaults, ...node.attributes]);
    const inner = this.#within(undefined, new Map(), attributes);
    for (const [i, name] of local.inputs.entries()) if (inputs[i]) inner.define(name, inputs[i]);
    inner.run(local.nodes, local.outputs);
    return local.outputs.map((name) => inner.lookup(name));
  }

  /** The values of a branch's outputs; it may read the values around it. */
  #inline(graph: OnnxGraph): Value[] {
    const inner = this.#within(this, graph.initializers, this.#attributes);
    const outputs = graph.outputs.map((o) => o.name);
    inner.run(graph.nodes, outputs);
    return outputs.map((name) => inner.lookup(name));
  }

  #within(
    outer: Scope | undefined,
    initializers: ReadonlyMap<string, OnnxTensor>,
    attributes?: ReadonlyMap<string, AttributeValue>,
  ): Scope {
    if (this.#depth > 64) throw new EspalierError("onnx-node", "its functions call each other without end");
    const literal = (t: OnnxTensor) => this.#source.literal(t);
    return new Scope(this.#file, this.#source, outer, initializers, literal, attributes, this.#depth + 1);
  }

  /** The error with the file, and with the node where it does not say so itself. What no rule foresaw is a file that its operators do not allow. */
  #located(node: OnnxNode, cause: unknown): unknown {
    const { file } = this.#file;
    if (cause instanceof Agreement) return cause;
    if (!(cause instanceof EspalierError)) {
      const message = cause instanceof Error ? cause.message : String(cause);
      return new EspalierError("onnx-node", `${file}: ${describe(node)} does not fit its operator: ${message}.`, { cause });
    }
    if (cause.message.startsWith(file)) return cause;
    const at = describe(node);
    return new EspalierError(cause.code, `${file}: ${cause.message.startsWith(at) ? "" : `${at}: `}${cause.message}`, { cause });
  }
}

/** Values that a node reads, those that its branches take from around them included. */
function* readBy(node: OnnxNode): Generator<string> {
  yield* node.inputs.filter((name) => name !== "");
  for (const attribute of node.attributes.values()) {
    if (attribute.kind !== "graph") continue;
    for (const inner of attribute.value.nodes) yield* readBy(inner);
    for (const { name } of attribute.value.outputs) yield name;
  }
}

function unsupported(node: OnnxNode): EspalierError {
  const name = node.domain === "" ? node.opType : `${node.domain}.${node.opType}`;
  const near = nearestNames(name, operatorNames, 3).join(", ");
  return new EspalierError(
    "onnx-unsupported",
    `${describe(node)}: the operator ${node.opType} of ${node.domain === "" ? "ONNX's own set" : `the domain "${node.domain}"`} is not supported (nearest: ${near}). Export the model without the fusion or the function that writes it, or ask only for outputs that do not depend on it.`,
  );
}
