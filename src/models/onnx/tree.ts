import { type OpenOnnx, readStorage } from "../../checkpoints/index.ts";
import { elementCount, type Tensor, type TypedArray } from "../../graph/index.ts";
import { type Layer, Linear, Module, Parameter, zeros } from "../../nn/index.ts";
import { isAnonymous, type OnnxGraph, type OnnxNode, type OnnxTensor, type Site } from "../../onnx/decode/index.ts";
import { denseMatrix, OnnxQuantizedLinear, OnnxScope } from "./layers.ts";
import { type FoundLayer, findLayers } from "./plan.ts";

/** Computes the output of a node from one value before it, by the file's own nodes. */
export type ComputeByNodes = (last: OnnxNode, input: string, x: Tensor) => Tensor;

/** Tables that follow from the configuration: no training ever changes them. */
const derived = /(inv_freq|cos_cache|sin_cache|position_ids|masked_bias)$/;

/** Puts the weights of a file into a module tree, under the names of the checkpoint that it was exported from. */
export class OnnxTree {
  /** The parameter that a tensor of the file became. */
  readonly weights = new Map<OnnxTensor, Parameter>();
  /** The layers, by the node whose output they compute. */
  readonly sites = new Map<OnnxNode, Site>();
  /** The path of the layer or parameter that an initialiser became. */
  readonly paths = new Map<string, string>();
  readonly #root: Module;
  readonly #open: OpenOnnx;
  readonly #compute: ComputeByNodes;

  constructor(root: Module, open: OpenOnnx, compute: ComputeByNodes) {
    this.#root = root;
    this.#open = open;
    this.#compute = compute;
    this.#build(findLayers(open.graph));
  }

  #build(layers: readonly FoundLayer[]): void {
    const byWeight = new Map<OnnxTensor, FoundLayer[]>();
    for (const layer of layers) byWeight.set(layer.weight.tensor, [...(byWeight.get(layer.weight.tensor) ?? []), layer]);
    // Layers first, because the bias of one may be another parameter's neighbour; then, in the file's order, what belongs to none of them. A weight with
    // several users goes to its own name, and their layers share it.
    for (const tensor of this.#open.graph.initializers.values()) {
      const own = byWeight.get(tensor) ?? [];
      if (own.length === 1 && !own[0]!.shared) this.#placeLayer(own[0]!);
    }
    const scales = scaleNames(this.#open.graph, layers);
    const kernels = kernelNames(this.#open.graph);
    for (const tensor of this.#open.graph.initializers.values())
      if (!this.weights.has(tensor) && !scales.has(tensor.name))
        this.#placeParameter(tensor, !isAnonymous(tensor.name) || kernels.has(tensor.name));
    for (const layer of layers) if (!this.sites.has(layer.last)) this.#placeLayer(layer);
  }

  #placeLayer(layer: FoundLayer): void {
    const { weight, inFeatures, outFeatures, last, input, partial } = layer;
    let module: Layer;
    if (weight.kind === "quantized") {
      const compute = (x: Tensor) => this.#compute(last, input, x);
      const values = (t: OnnxTensor): TypedArray => readStorage(this.#open.storage(t));
      module = new OnnxQuantizedLinear(layer, compute, () => denseMatrix(weight, layer, values));
    } else {
      const linear = new Linear(inFeatures, outFeatures, { init: zeros, layout: weight.layout, bias: weight.bias !== undefined });
      const shared = this.weights.get(weight.tensor);
      if (shared instanceof Parameter) Object.assign(linear, { weight: shared });
      else this.#adopt(weight.tensor, linear.weight);
      if (weight.bias) this.#adopt(weight.bias, linear.bias!);
      module = linear;
    }
    const { holder, key, path } = this.#place(layer.path, module);
    if (!this.paths.has(weight.tensor.name)) this.paths.set(weight.tensor.name, path);
    if (weight.kind === "float" && weight.bias) this.paths.set(weight.bias.name, `${path}.bias`);
    this.sites.set(last, { input, partial, layer: () => (x) => (holder[key] as Layer).forward(x) });
  }

  #adopt(tensor: OnnxTensor, parameter: Parameter): void {
    parameter.storage = this.#open.storage(tensor);
    this.weights.set(tensor, parameter);
  }

  /** A float weight that is no matrix of a layer becomes a parameter; a constant of the exporter's does not. */
  #placeParameter(tensor: OnnxTensor, isWeight: boolean): void {
    const { dtype, shape, name } = tensor;
    const isFloating = dtype === "float32" || dtype === "float16" || dtype === "bfloat16";
    if (!isWeight || !isFloating || shape.length === 0 || elementCount(shape) < 2 || derived.test(name)) return;
    const parameter = new Parameter(shape, () => this.#open.storage(tensor));
    this.weights.set(tensor, parameter);
    this.paths.set(name, this.#place(name, parameter).path);
  }

  /** Puts a module or parameter at a dotted path, making the scopes on the way. Where a layer is in the way, the rest of the path becomes one name. */
  #place(path: string, child: Module | Parameter): { holder: Record<string, unknown>; key: string; path: string } {
    const parts = path.split(".").map(fieldName);
    const walked: string[] = [];
    let holder = this.#root as unknown as Record<string, unknown>;
    while (parts.length > 1 && (!(parts[0]! in holder) || holder[parts[0]!] instanceof OnnxScope)) {
      const part = parts.shift()!;
      holder[part] ??= new OnnxScope();
      holder = holder[part] as Record<string, unknown>;
      walked.push(part);
    }
    let key = parts.join("_");
    while (key in holder) key = `${key}_`;
    holder[key] = child;
    return { holder, key, path: [...walked, key].join(".") };
  }
}

/** Operators whose other inputs say how integers are meant: those are no weights to train. */
const scaling = /^(Dequantize|Quantize|DynamicQuantize|QLinear|MatMulNBits|MatMulBnb4|MatMulInteger|QMoE)/;

function scaleNames(graph: OnnxGraph, layers: readonly FoundLayer[]): ReadonlySet<string> {
  const names = graph.nodes.filter((node) => scaling.test(node.opType)).flatMap((node) => node.inputs.slice(1));
  const ofLayers = layers.map(({ weight }) => (weight.kind === "quantized" ? (weight.scale?.name ?? "") : ""));
  return new Set([...names, ...ofLayers]);
}

/** What only weights are read as, whatever their name: tables of embeddings, kernels and matrices. */
function kernelNames(graph: OnnxGraph): ReadonlySet<string> {
  const place: Readonly<Record<string, number>> = { Gather: 0, Conv: 1, ConvTranspose: 1, MatMul: 1, Gemm: 1, Attention: 1 };
  return new Set(graph.nodes.flatMap((node) => node.inputs[place[node.opType] ?? Number.NaN] ?? []));
}

/** Members of every module, and of the root. */
const reserved: ReadonlySet<string> = new Set([
  ...Object.getOwnPropertyNames(Module.prototype),
  ...Object.getOwnPropertyNames(Object.prototype),
  "file",
  "directory",
  "inputs",
  "outputNames",
  "pathOf",
  "trace",
]);

/** A part of a path as a field: never empty, and none of a module's own members. */
const fieldName = (part: string): string => (part === "" || reserved.has(part) ? `${part}_` : part);
