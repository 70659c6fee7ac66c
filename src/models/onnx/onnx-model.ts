import { dirname } from "node:path";
import { type OpenOnnx, openOnnx, readStorage } from "../../checkpoints/index.ts";
import {
  type Dim,
  type DType,
  EspalierError,
  elementCount,
  isFloat,
  nearestNames,
  read,
  type Shape,
  type Tensor,
  type TensorType,
  type Traced,
  trace,
  Variable,
} from "../../graph/index.ts";
import { Module } from "../../nn/index.ts";
import {
  Agreement,
  content,
  dtypeOf,
  evaluate,
  maxContent,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
  type Site,
  type Source,
  settle,
  substitute,
  typeName,
  Value,
} from "../../onnx/decode/index.ts";
import { cast } from "../../ops/index.ts";
import { declaredShape } from "./dims.ts";
import { OnnxTree } from "./tree.ts";

export interface OnnxModelOptions {
  /** Inputs of the file that get a constant value and are no inputs any more, such as `use_cache_branch`. */
  fixed?: Readonly<Record<string, number | boolean | readonly number[]>>;
}

/** An input or output of the file. Its sizes may be symbols. */
export interface OnnxPort extends TensorType {
  readonly name: string;
}

/**
 * The model that an .onnx file holds, rebuilt in operators with gradients. `forward` takes and gives tensors under the file's own names.
 *
 * Products with a weight of the file are {@link Linear} layers at the path of that weight (`model.layers.0.self_attn.q_proj`), so adapters find them; the
 * other float weights are parameters at their names. All are frozen and mapped from their files. Weights that the file shares are one parameter.
 */
export class OnnxModel extends Module {
  readonly #open: OpenOnnx;
  readonly #fixed: ReadonlyMap<string, Value>;
  readonly #tree: OnnxTree;
  readonly #constants = new Map<OnnxTensor, Variable>();
  readonly #contents = new Map<OnnxTensor, Value | undefined>();
  #sizes: ReadonlyMap<string, Dim> | undefined;

  constructor(open: OpenOnnx, options: OnnxModelOptions = {}) {
    super();
    const { fixed = {} } = options;
    const condition = (name: string): boolean | undefined => {
      const value = fixed[name] ?? storedFlag(open, name);
      return value === undefined ? undefined : Boolean(typeof value === "object" ? value[0] : value);
    };
    this.#open = { ...open, graph: settle(open.graph, condition) };
    this.#fixed = new Map(Object.entries(fixed).map(([name, value]) => [name, this.#constant(name, value)]));
    this.#tree = new OnnxTree(this, this.#open, (last, input, x) => this.#compute(last, input, x));
    this.assignNames();
    this.freeze();
  }

  /** The path of the file. */
  get file(): string {
    return this.#open.file;
  }

  /** The directory of the file. */
  get directory(): string {
    return dirname(this.#open.file);
  }

  /**
   * The file's inputs. Named dimensions are symbols, and where the graph can only run if one of them has the size of others (the length of a mask, say,
   * that of past and new tokens together), it has that size here.
   */
  get inputs(): readonly OnnxPort[] {
    this.#sizes ??= this.#settle();
    return this.#declaredInputs(this.#sizes);
  }

  /** The names of the file's outputs, in its order. */
  get outputNames(): readonly string[] {
    return this.#open.graph.outputs.map((o) => o.name);
  }

  /** The path of the layer, or of the parameter, that an initialiser of the file became. */
  pathOf(initializer: string): string {
    const path = this.#tree.paths.get(initializer);
    if (path !== undefined) return path;
    const near = nearestNames(initializer, this.#tree.paths.keys()).join(", ");
    throw new EspalierError("no-initializer", `${this.file}: no weight is called "${initializer}". Nearest: ${near}.`);
  }

  /**
   * The outputs for these inputs, under the file's names; only what the asked outputs depend on is computed.
   *
   * @throws EspalierError `onnx-inputs`, and as `evaluate`: `onnx-unsupported`, `onnx-dynamic-shape`, `onnx-control-flow`, `onnx-node`
   */
  forward(inputs: Readonly<Record<string, Tensor>>, outputs: readonly string[] = this.outputNames): Record<string, Tensor> {
    try {
      return this.#rebuild(inputs, outputs);
    } catch (cause) {
      if (!(cause instanceof Agreement)) throw cause;
      throw new EspalierError("shape-mismatch", `${this.file}: the graph runs only where ${cause.message}: give that size in its place.`, {
        cause,
      });
    }
  }

  #rebuild(inputs: Readonly<Record<string, Tensor>>, outputs: readonly string[]): Record<string, Tensor> {
    const declared = this.#open.graph.inputs.filter(({ name }) => !this.#fixed.has(name));
    const names = declared.map((i) => i.name);
    const unknown = Object.keys(inputs).filter((name) => !names.includes(name));
    const unknownOutputs = outputs.filter((name) => !this.outputNames.includes(name));
    if (unknown.length + unknownOutputs.length > 0) {
      const kind = unknown.length > 0 ? "input" : "output";
      throw new EspalierError(
        "onnx-inputs",
        `${this.file}: there is no ${kind} "${[...unknown, ...unknownOutputs].join('", "')}". The file's inputs are ${names.join(", ")}, its outputs ${this.outputNames.join(", ")}.`,
      );
    }
    const values = new Map(this.#fixed);
    for (const info of declared) {
      const given = inputs[info.name];
      // One that is missing is reported by the first node that reads it: an output may not depend on it.
      if (given) values.set(info.name, Value.of(this.#checked(info, given)));
    }
    const missing = names.filter((name) => !inputs[name]);
    const results = this.#evaluate(values, outputs, missing);
    return Object.fromEntries(outputs.map((name) => [name, results.get(name)!.tensor]));
  }

  /**
   * The file's graph, with what was put in its layers' place, over its own inputs and with its own outputs: for `saveOnnx`, and for a device to run.
   * `types` gives other sizes than the file's dynamic ones.
   */
  trace(types?: Readonly<Record<string, TensorType>>, outputs: readonly string[] = this.outputNames): Traced {
    const declared = new Map([...this.#open.graph.inputs, ...this.#open.graph.outputs].map((info) => [info.name, info]));
    return trace(types ?? Object.fromEntries(this.inputs.map((port) => [port.name, port])), (inputs) => {
      const results = this.forward(inputs, outputs);
      // A file of 16-bit floats keeps the types that its callers know.
      const typed = outputs.map((name) => [name, cast(results[name]!, declared.get(name)?.dtype ?? results[name]!.dtype)] as const);
      return Object.fromEntries(typed);
    });
  }

  #evaluate(values: ReadonlyMap<string, Value>, outputs: readonly string[], missing: readonly string[]): Map<string, Value> {
    try {
      return evaluate(this.#open, this.#source(this.#tree.sites), values, outputs);
    } catch (cause) {
      const name = missing.find((n) => cause instanceof EspalierError && cause.message.includes(`"${n}" is read`));
      if (name === undefined) throw cause;
      throw new EspalierError(
        "onnx-inputs",
        `${this.file}: the input "${name}" is missing, which the outputs ${outputs.join(", ")} depend on.`,
        {
          cause,
        },
      );
    }
  }

  /** A layer's product as the file's own nodes compute it. */
  #compute(last: OnnxNode, input: string, x: Tensor): Tensor {
    const others = new Map([...this.#tree.sites].filter(([node]) => node !== last));
    const [name = ""] = last.outputs;
    return evaluate(this.#open, this.#source(others), new Map([[input, Value.of(x)]]), [name]).get(name)!.tensor;
  }

  #source(sites: ReadonlyMap<OnnxNode, Site>): Source {
    return { initializer: (t) => this.#weight(t), literal: (t) => this.#literal(t), sites };
  }

  #checked(info: OnnxValueInfo, given: Tensor): Tensor {
    const expected = dtypeOf(info.typeCode);
    if (!expected)
      throw this.#error("onnx-inputs", `the input "${info.name}" is ${typeName(info.typeCode)}, which Espalier does not compute in`);
    const rank = info.shape?.length ?? given.rank;
    const isNarrow = info.dtype === given.dtype && isFloat(given.dtype);
    if ((given.dtype !== expected && !isNarrow) || given.rank !== rank)
      throw this.#error(
        "onnx-inputs",
        `the input "${info.name}" must be ${info.dtype} of rank ${rank} (${(info.shape ?? []).map((d) => d ?? "?").join(", ")}), not ${given.dtype} [${given.shape.map(String).join(", ")}]`,
      );
    return cast(given, expected);
  }

  #declaredInputs(sizes: ReadonlyMap<string, Dim>): OnnxPort[] {
    const named = this.#open.graph.inputs.filter(({ name }) => !this.#fixed.has(name));
    return named.map((info) => {
      if (!info.dtype)
        throw this.#error("onnx-inputs", `the input "${info.name}" is ${typeName(info.typeCode)}, which Espalier does not compute in`);
      const shape: Shape = declaredShape(info).map((d) => substitute(d, sizes));
      return { name: info.name, dtype: info.dtype, shape };
    });
  }

  /** Which sizes of named dimensions follow from the graph. What else is wrong with it is reported where it is traced in earnest. */
  #settle(): ReadonlyMap<string, Dim> {
    let sizes = new Map<string, Dim>();
    for (let attempt = 0; attempt < 64; attempt++) {
      try {
        trace(Object.fromEntries(this.#declaredInputs(sizes).map((port) => [port.name, port])), (inputs) =>
          this.#rebuild(inputs, this.outputNames),
        );
        break;
      } catch (cause) {
        if (!(cause instanceof Agreement)) break;
        const found = new Map([[cause.symbol, cause.size]]);
        sizes = new Map([...[...sizes].map(([name, size]) => [name, substitute(size, found)] as const), ...found]);
      }
    }
    return sizes;
  }

  #constant(name: string, value: number | boolean | readonly number[]): Value {
    const info = this.#open.graph.inputs.find((i) => i.name === name);
    const dtype: DType | undefined = info && dtypeOf(info.typeCode);
    if (!dtype) {
      const names = this.#open.graph.inputs.map((i) => i.name).join(", ");
      throw this.#error("onnx-inputs", `there is no input "${name}" that could be fixed; the inputs are ${names}`);
    }
    const list = typeof value === "object" ? value : [Number(value)];
    const isScalar = typeof value !== "object" && info?.shape?.length === 0;
    return Value.known(content(dtype, isScalar ? [] : [list.length], list));
  }

  /** The value of an initialiser: known elements where it is small and nothing that could be trained. */
  #weight(tensor: OnnxTensor): Value {
    const variable = this.#tree.weights.get(tensor);
    if (variable)
      return Value.weight(
        variable,
        () => read(variable),
        () => this.#known(tensor)?.content,
      );
    return this.#literal(tensor);
  }

  #literal(tensor: OnnxTensor): Value {
    const known = this.#known(tensor);
    if (known) return known;
    const storage = this.#open.storage(tensor);
    const constant = this.#constants.get(tensor) ?? new Variable(tensor.name || "constant", storage, storage, { frozen: true });
    this.#constants.set(tensor, constant);
    return Value.weight(
      constant,
      () => read(constant),
      () => undefined,
    );
  }

  /** The elements of a small tensor. Values serve one graph only, so a new one is made each time. */
  #known(tensor: OnnxTensor): Value | undefined {
    if (!this.#contents.has(tensor)) {
      const storage = this.#open.storage(tensor);
      const small = elementCount(storage.shape) <= (isFloat(storage.dtype) ? 64 : maxContent);
      const values = small ? Array.from(readStorage(storage) as ArrayLike<number | bigint>, Number) : undefined;
      this.#contents.set(tensor, values && Value.known(content(storage.dtype, storage.shape, values)));
    }
    const kept = this.#contents.get(tensor)?.content;
    return kept && Value.known(kept);
  }

  #error(code: string, reason: string): EspalierError {
    return new EspalierError(code, `${this.file}: ${reason}.`);
  }
}

/** A bool that the file itself holds. */
function storedFlag(open: OpenOnnx, name: string): boolean | undefined {
  const tensor = open.graph.initializers.get(name);
  return tensor?.dtype === "bool" && elementCount(tensor.shape) === 1 ? Boolean(readStorage(open.storage(tensor))[0]) : undefined;
}

/**
 * Opens an .onnx file of any exporter for adapting and training. Nothing is read of its weights before they are needed.
 *
 * @throws EspalierError `checkpoint-missing`, `onnx-damaged`, `onnx-tensor`, `onnx-external`
 */
export const openOnnxModel = (file: string, options: OnnxModelOptions = {}): OnnxModel => new OnnxModel(openOnnx(file), options);
