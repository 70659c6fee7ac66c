import { isAnonymous, modulePath, type OnnxGraph, type OnnxNode, type OnnxTensor } from "../../onnx/decode/index.ts";

/** A linear layer found in a file: the product of activations with a weight that the file holds. */
export interface FoundLayer {
  /** The module path that it gets. */
  path: string;
  /** The node that multiplies by the weight. */
  readonly product: OnnxNode;
  /** The node whose output the layer computes: the product, or what belongs to it (a bias, the scale of an integer product). */
  readonly last: OnnxNode;
  /** The value that the layer reads. */
  readonly input: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly weight:
    | { readonly kind: "float"; readonly tensor: OnnxTensor; readonly layout: "out-in" | "in-out"; readonly bias: OnnxTensor | undefined }
    /** Integers with scales: the file's own nodes compute the product. */
    | ({ readonly kind: "quantized" } & QuantizedMatrix);
  /** Only the projection within the node: the node's rule computes the rest. */
  readonly partial: boolean;
  /** Other nodes read the weight, too, as those of a tied embedding do. */
  shared: boolean;
}

/** How a matrix of integers is stored: (integer − zero)·scale is the weight. */
export interface QuantizedMatrix {
  readonly tensor: OnnxTensor;
  readonly scale: OnnxTensor | undefined;
  readonly zero: OnnxTensor | undefined;
  /** [in, out] or [out, in] integers with one scale for all or per output; or [out, blocks, bytes] of packed bits with a scale per block. */
  readonly layout: "in-out" | "out-in" | { readonly bits: number; readonly block: number };
}

const isFloating = (dtype: OnnxTensor["dtype"]): boolean => dtype === "float32" || dtype === "float16" || dtype === "bfloat16";

/** Finds the linear layers of a graph, in its order, each with a path of its own. */
export function findLayers(graph: OnnxGraph): FoundLayer[] {
  const finder = new Finder(graph);
  const layers = graph.nodes.flatMap((node) => finder.layer(node) ?? []);
  const uses = new Map<OnnxTensor, number>();
  for (const name of graph.nodes.flatMap((node) => node.inputs)) {
    const tensor = graph.initializers.get(name);
    if (tensor) uses.set(tensor, (uses.get(tensor) ?? 0) + 1);
  }
  const taken = new Set<string>();
  for (const layer of layers) {
    layer.shared = (uses.get(layer.weight.tensor) ?? 0) > 1;
    const base = pathOf(layer);
    layer.path = base;
    for (let i = 1; taken.has(layer.path); i++) layer.path = `${base}_${i}`;
    taken.add(layer.path);
  }
  return layers;
}

/** After the weight, `model.layers.0.self_attn.q_proj.weight`, where it has a name and one user; else after the module that the node is from. */
function pathOf({ product, weight: { tensor }, shared }: FoundLayer): string {
  const named = layerName(tensor.name);
  if (named !== undefined && !shared) return named;
  return modulePath(product) ?? named ?? cleaned(product.name || tensor.name || "layer");
}

/** What tools append to the name of a weight that they have transposed, quantised or joined to others. */
const suffixes = /(\.weight|\.qweight|\.kernel|\.MatMul|_qkv_weight|_weight|_transposed|_quantized|_Q[248]|_Q4G\d+)+$/i;

function layerName(initializer: string): string | undefined {
  if (isAnonymous(initializer)) return undefined;
  const name = cleaned(initializer.replace(suffixes, ""));
  return name.includes(".") ? name : undefined;
}

const cleaned = (name: string): string => name.replace(/^\/+/, "").replaceAll("/", ".").replaceAll(":", "_");

class Finder {
  readonly #graph: OnnxGraph;
  readonly #producers = new Map<string, OnnxNode>();
  readonly #consumers = new Map<string, OnnxNode[]>();
  readonly #outputs: ReadonlySet<string>;

  constructor(graph: OnnxGraph) {
    this.#graph = graph;
    this.#outputs = new Set(graph.outputs.map((o) => o.name));
    for (const node of graph.nodes) {
      for (const name of node.outputs) if (name) this.#producers.set(name, node);
      for (const name of new Set(node.inputs)) if (name) this.#consumers.set(name, [...(this.#consumers.get(name) ?? []), node]);
    }
  }

  layer(node: OnnxNode): FoundLayer | undefined {
    const rule = layerRules[`${node.domain === "" ? "" : `${node.domain}.`}${node.opType}`];
    return rule?.(node, this);
  }

  initializer(name: string | undefined): OnnxTensor | undefined {
    return name === undefined ? undefined : this.#graph.initializers.get(name);
  }

  producer(name: string | undefined): OnnxNode | undefined {
    return name === undefined ? undefined : this.#producers.get(name);
  }

  /** The one node that reads the first output of `node`, where nothing else does. */
  reader(node: OnnxNode): OnnxNode | undefined {
    const [name] = node.outputs;
    const readers = this.#consumers.get(name ?? "") ?? [];
    return readers.length === 1 && !this.#outputs.has(name!) && node.outputs.slice(1).every((n) => n === "") ? readers[0] : undefined;
  }

  /** The float matrix behind a value: an initialiser, or one that is transposed on the way. */
  matrix(name: string | undefined): { tensor: OnnxTensor; transposed: boolean } | undefined {
    const direct = this.initializer(name);
    if (direct) return isFloating(direct.dtype) && direct.shape.length === 2 ? { tensor: direct, transposed: false } : undefined;
    const node = this.producer(name);
    if (node?.opType === "Identity") return this.matrix(node.inputs[0]);
    if (node?.opType !== "Transpose") return undefined;
    const order = node.attributes.get("perm");
    if (order?.kind === "ints" && order.value.join() !== "1,0") return undefined;
    const inner = this.matrix(node.inputs[0]);
    return inner && { tensor: inner.tensor, transposed: !inner.transposed };
  }

  /** A vector of `length` floats that nothing but this node reads: a bias. */
  bias(name: string | undefined, length: number): OnnxTensor | undefined {
    const tensor = this.initializer(name);
    const only = (this.#consumers.get(name ?? "") ?? []).length === 1;
    return tensor && only && tensor.dtype === "float32" && tensor.shape.length === 1 && tensor.shape[0] === length ? tensor : undefined;
  }
}

type LayerRule = (node: OnnxNode, graph: Finder) => FoundLayer | undefined;

const int = (node: OnnxNode, name: string, fallback: number): number => {
  const attribute = node.attributes.get(name);
  return attribute?.kind === "int" ? attribute.value : fallback;
};
const float = (node: OnnxNode, name: string, fallback: number): number => {
  const attribute = node.attributes.get(name);
  return attribute?.kind === "float" ? attribute.value : fallback;
};

/** A product of floats, with its bias: an input of the node's own, or what the next node adds. */
function floatLayer(node: OnnxNode, graph: Finder, transposedInNode: boolean, ownBias?: string): FoundLayer | undefined {
  const matrix = graph.matrix(node.inputs[1]);
  if (!matrix) return undefined;
  const layout = matrix.transposed !== transposedInNode ? "out-in" : "in-out";
  const [rows, columns] = matrix.tensor.shape as [number, number];
  const [outFeatures, inFeatures] = layout === "out-in" ? [rows, columns] : [columns, rows];
  const next = ownBias ? undefined : graph.reader(node);
  const added = next?.opType === "Add" && next.domain === "" ? next.inputs.find((name) => name !== node.outputs[0]) : undefined;
  const bias = graph.bias(ownBias || added, outFeatures);
  if (ownBias && !bias) return undefined;
  const weight = { kind: "float", tensor: matrix.tensor, layout, bias } as const;
  const last = bias && next ? next : node;
  return { path: "", product: node, last, input: node.inputs[0]!, inFeatures, outFeatures, weight, partial: false, shared: false };
}

function gemmLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  if (int(node, "transA", 0) !== 0 || float(node, "alpha", 1) !== 1 || float(node, "beta", 1) !== 1) return undefined;
  return floatLayer(node, graph, int(node, "transB", 0) === 1, node.inputs[2]);
}

function attentionLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  const matrix = graph.matrix(node.inputs[1]);
  if (!matrix || matrix.transposed) return undefined;
  const [inFeatures, outFeatures] = matrix.tensor.shape as [number, number];
  const bias = graph.bias(node.inputs[2], outFeatures);
  if (node.inputs[2] && !bias) return undefined;
  const weight = { kind: "float", tensor: matrix.tensor, layout: "in-out", bias } as const;
  return { path: "", product: node, last: node, input: node.inputs[0]!, inFeatures, outFeatures, weight, partial: true, shared: false };
}

const quantizedLayer = (
  nodes: { product: OnnxNode; last: OnnxNode },
  input: string,
  matrix: QuantizedMatrix,
  [inFeatures, outFeatures]: readonly [number, number],
): FoundLayer => ({
  path: "",
  ...nodes,
  input,
  inFeatures,
  outFeatures,
  weight: { kind: "quantized", ...matrix },
  partial: false,
  shared: false,
});

function bitsLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  const tensor = graph.initializer(node.inputs[1]);
  if (!tensor) return undefined;
  const layout = { bits: int(node, "bits", 4), block: int(node, "block_size", 32) };
  const matrix = { tensor, scale: graph.initializer(node.inputs[2]), zero: graph.initializer(node.inputs[3]), layout };
  return quantizedLayer({ product: node, last: node }, node.inputs[0]!, matrix, [int(node, "K", 0), int(node, "N", 0)]);
}

/** DynamicQuantizeLinear → MatMulInteger → Cast → Mul by both scales, which together are one product. */
function integerLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  const tensor = graph.initializer(node.inputs[1]);
  const rounding = graph.producer(node.inputs[0]);
  const cast = graph.reader(node);
  const last = cast?.opType === "Cast" ? graph.reader(cast) : undefined;
  if (tensor?.shape.length !== 2 || rounding?.opType !== "DynamicQuantizeLinear" || last?.opType !== "Mul") return undefined;
  const scales = last.inputs.map((name) => graph.producer(name)).find((n) => n?.opType === "Mul");
  const scale = scales?.inputs.map((name) => graph.initializer(name)).find((t) => t !== undefined);
  const matrix = { tensor, scale, zero: graph.initializer(node.inputs[3]), layout: "in-out" } as const;
  return quantizedLayer({ product: node, last }, rounding.inputs[0]!, matrix, tensor.shape as [number, number]);
}

/** `DynamicQuantizeMatMul`, which is all of that in one node. */
function dynamicLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  const tensor = graph.initializer(node.inputs[1]);
  if (tensor?.shape.length !== 2) return undefined;
  const [scale, zero] = [graph.initializer(node.inputs[2]), graph.initializer(node.inputs[3])];
  const matrix = { tensor, scale, zero, layout: "in-out" } as const;
  return quantizedLayer({ product: node, last: node }, node.inputs[0]!, matrix, tensor.shape as [number, number]);
}

/** A product with a weight that is dequantised first. */
function dequantizedLayer(node: OnnxNode, graph: Finder): FoundLayer | undefined {
  const first = graph.producer(node.inputs[1]);
  const transposed = first?.opType === "Transpose";
  const source = transposed ? graph.producer(first.inputs[0]) : first;
  const tensor = source?.opType === "DequantizeLinear" ? graph.initializer(source.inputs[0]) : undefined;
  if (tensor?.shape.length !== 2) return undefined;
  const [rows, columns] = tensor.shape as [number, number];
  const layout = transposed ? "out-in" : "in-out";
  const matrix = { tensor, scale: graph.initializer(source!.inputs[1]), zero: graph.initializer(source!.inputs[2]), layout } as const;
  return quantizedLayer({ product: node, last: node }, node.inputs[0]!, matrix, transposed ? [columns, rows] : [rows, columns]);
}

const layerRules: Readonly<Record<string, LayerRule>> = {
  MatMul: (node, graph) => floatLayer(node, graph, false) ?? dequantizedLayer(node, graph),
  Gemm: gemmLayer,
  MatMulInteger: integerLayer,
  "com.microsoft.FusedMatMul": (node, graph) =>
    int(node, "transA", 0) === 0 && float(node, "alpha", 1) === 1 ? floatLayer(node, graph, int(node, "transB", 0) === 1) : undefined,
  "com.microsoft.Attention": attentionLayer,
  "com.microsoft.MatMulNBits": bitsLayer,
  "com.microsoft.DynamicQuantizeMatMul": dynamicLayer,
};
