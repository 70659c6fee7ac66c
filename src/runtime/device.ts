import type { InferenceSession, InferenceSessionFactory, Tensor as OrtTensor, TensorConstructor } from "onnxruntime-common";
import {
  allocate,
  type DType,
  EspalierError,
  elementCount,
  formatShape,
  type MemoryStorage,
  type Shape,
  type Storage,
  type Traced,
  type TypedArray,
  type Variable,
} from "../graph/index.ts";
import { type EncodedModel, encode } from "../onnx/index.ts";
import type { Provider } from "../ops/index.ts";
import { avoidsCopies, isUnreturnedResult } from "./unreturned-results.ts";

/** Values on the host: what programs are fed and what they return. */
export type HostTensor = Omit<MemoryStorage, "kind">;

/** A host tensor over `data`. */
export const hostTensor = (dtype: DType, shape: readonly number[], data: TypedArray): HostTensor => ({ dtype, shape, data });

/** What a platform (Node, browser) provides: ONNX Runtime and access to files. */
export interface Platform {
  readonly ort: { InferenceSession: InferenceSessionFactory; Tensor: TensorConstructor };
  readonly provider: Provider;
  /** Opens a session on the model that `encodeWith` produces, once told where external weights lie. */
  open(
    traced: Traced,
    encodeWith: (files?: Pick<Parameters<typeof encode>[1], "external">) => EncodedModel,
  ): Promise<{ session: InferenceSession; model: EncodedModel }>;
  /** Whether this ONNX Runtime copies outputs that already stand in the caller's buffers; see unreturned-results.ts. */
  readonly copiesOutputs?: boolean;
  /** Copies stored values into memory. */
  load(storage: Storage): TypedArray;
}

/**
 * A place to run graphs: one execution provider of one ONNX Runtime, and the present values of variables there.
 * A variable has two buffers: a run reads one and writes the other, then they change places, because an output must not alias an input.
 */
export class Device {
  readonly platform: Platform;
  readonly #state = new WeakMap<Variable, { current: OrtTensor; spare?: OrtTensor }>();

  constructor(platform: Platform) {
    this.platform = platform;
  }

  get provider(): Provider {
    return this.platform.provider;
  }

  async compile(traced: Traced): Promise<Program> {
    const { session, model } = await this.platform.open(traced, (files) =>
      encode(traced, {
        provider: this.provider,
        values: (v) => this.platform.load(v.storage),
        sentinel: this.platform.copiesOutputs && avoidsCopies(traced),
        ...files,
      }),
    );
    return new Program(this, session, model);
  }

  /** The present values of a variable, copied. */
  read(variable: Variable): HostTensor {
    if (variable.frozen) return hostTensor(variable.dtype, variable.shape, this.platform.load(variable.storage).slice());
    return hostTensor(variable.dtype, variable.shape, (this.current(variable).data as TypedArray).slice());
  }

  /** Overwrites the present values of a variable. */
  write(variable: Variable, data: TypedArray): void {
    const target = this.current(variable).data as TypedArray;
    if (target.length !== data.length)
      throw new EspalierError(
        "shape-mismatch",
        `Variable "${variable.name}" ${formatShape(variable.shape)} holds ${target.length} elements, got ${data.length}.`,
      );
    target.set(data as never);
  }

  /** Moves the present values into the variable's storage, so that they outlive the device. */
  persist(variable: Variable): void {
    if (!variable.frozen && this.#state.has(variable)) variable.storage = { kind: "memory", ...this.read(variable) };
  }

  /** Forgets the device's buffers of a variable: the next run starts from its storage. */
  release(variable: Variable): void {
    this.#state.delete(variable);
  }

  tensor(host: HostTensor): OrtTensor {
    return new this.platform.ort.Tensor(host.dtype as "float32", host.data as Float32Array, host.shape);
  }

  /** The buffer that holds the variable's present values. */
  current(variable: Variable): OrtTensor {
    return this.#buffers(variable).current;
  }

  /** The buffer that the next values are written to. */
  spare(variable: Variable): OrtTensor {
    const buffers = this.#buffers(variable);
    buffers.spare ??= this.tensor(hostTensor(variable.dtype, variable.shape, allocate(variable.dtype, elementCount(variable.shape))));
    return buffers.spare;
  }

  /** Makes the written buffer the present one. */
  flip(variable: Variable): void {
    const buffers = this.#buffers(variable);
    [buffers.current, buffers.spare] = [buffers.spare!, buffers.current];
  }

  #buffers(variable: Variable): { current: OrtTensor; spare?: OrtTensor } {
    let buffers = this.#state.get(variable);
    if (!buffers) {
      // A copy: the storage keeps the initial values while the buffers move on.
      buffers = { current: this.tensor(hostTensor(variable.dtype, variable.shape, this.platform.load(variable.storage).slice())) };
      this.#state.set(variable, buffers);
    }
    return buffers;
  }
}

/** A compiled graph. */
export class Program {
  readonly #device: Device;
  readonly #session: InferenceSession;
  readonly #model: EncodedModel;

  constructor(device: Device, session: InferenceSession, model: EncodedModel) {
    this.#device = device;
    this.#session = session;
    this.#model = model;
  }

  /** Runs the graph once: returns its outputs and moves every updated variable on. When it fails, no variable has changed. */
  async run(feeds: Readonly<Record<string, HostTensor>> = {}): Promise<Record<string, HostTensor>> {
    const { inputs, outputs, variables, updates, sentinel } = this.#model;
    const fed: Record<string, OrtTensor> = {};
    for (const [name, type] of inputs) {
      const host = feeds[name];
      if (!host)
        throw new EspalierError(
          "missing-input",
          `The program needs the input "${name}" (${type.dtype} ${formatShape(type.shape)}); it got ${Object.keys(feeds).join(", ") || "none"}.`,
        );
      checkFeed(name, host, type);
      fed[name] = this.#device.tensor(host);
    }
    for (const [name, variable] of variables) fed[name] = this.#device.current(variable);
    const fetches: Record<string, OrtTensor | null> = {};
    for (const [name, type] of outputs) fetches[name] = sentinel ? this.#device.tensor(emptyTensor(type)) : null;
    for (const [name, variable] of updates) fetches[name] = this.#device.spare(variable);
    const results = sentinel ? await this.#runInPlace(fed, fetches, sentinel) : await this.#session.run(fed, fetches);
    for (const variable of updates.values()) this.#device.flip(variable);
    return Object.fromEntries([...outputs.keys()].map((name) => [name, fromOrt(results[name]!)]));
  }

  /** Runs with every output in a buffer of ours, and keeps ONNX Runtime from copying them again. */
  async #runInPlace(
    fed: Record<string, OrtTensor>,
    fetches: Record<string, OrtTensor | null>,
    sentinel: string,
  ): Promise<Record<string, OrtTensor>> {
    try {
      await this.#session.run(fed, { ...fetches, [sentinel]: null });
    } catch (error) {
      if (!isUnreturnedResult(error)) throw error;
    }
    return fetches as Record<string, OrtTensor>;
  }

  /** Frees the session; writes its profile when the device was asked for one. */
  async dispose(): Promise<void> {
    this.#session.endProfiling();
    await this.#session.release();
  }
}

function checkFeed(name: string, host: HostTensor, type: { dtype: DType; shape: Shape }): void {
  const fits =
    host.dtype === type.dtype &&
    host.shape.length === type.shape.length &&
    type.shape.every((d, i) => typeof d !== "number" || d === host.shape[i]);
  if (!fits)
    throw new EspalierError(
      "shape-mismatch",
      `Input "${name}" must be ${type.dtype} ${formatShape(type.shape)}, got ${host.dtype} ${formatShape(host.shape)}.`,
    );
  if (host.data.length !== elementCount(host.shape))
    throw new EspalierError(
      "shape-mismatch",
      `Input "${name}" ${formatShape(host.shape)} needs ${elementCount(host.shape)} elements, got ${host.data.length}.`,
    );
}

const emptyTensor = ({ dtype, shape }: { dtype: DType; shape: Shape }): HostTensor =>
  hostTensor(dtype, shape as number[], allocate(dtype, elementCount(shape as number[])));

const fromOrt = (tensor: OrtTensor): HostTensor => hostTensor(tensor.type as DType, [...tensor.dims], tensor.data as TypedArray);
