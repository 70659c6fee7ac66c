import type { InferenceSession, InferenceSessionFactory, Tensor as OrtTensor, TensorConstructor } from "onnxruntime-common";
import {
  allocate,
  converted,
  type DType,
  EspalierError,
  elementCount,
  formatShape,
  read,
  type Storage,
  type Traced,
  type TypedArray,
  trace,
  type Variable,
} from "../graph/index.ts";
import { type EncodedModel, encode } from "../onnx/index.ts";
import type { ComputeDtype, Provider } from "../ops/index.ts";
import { type HostTensor, hostTensor } from "./host-tensor.ts";
import { Program } from "./program.ts";
import type { SessionProfile } from "./session-profile.ts";
import { avoidsCopies } from "./unreturned-results.ts";

export type { OperatorRun, SessionProfile } from "./session-profile.ts";
export { type HostTensor, hostTensor, Program };

/** What a platform (Node, browser) provides: ONNX Runtime and access to files. */
export interface Platform {
  readonly ort: { InferenceSession: InferenceSessionFactory; Tensor: TensorConstructor };
  readonly provider: Provider;
  /** What training computes matrix products in. Default "float32". */
  readonly compute?: ComputeDtype;
  /** Opens a session on the model that `encodeWith` produces, once told where external weights lie. `close` follows the session's release. */
  open(
    traced: Traced,
    encodeWith: (files?: Pick<Parameters<typeof encode>[1], "external">) => EncodedModel,
    profiling?: Profiling,
  ): Promise<{ session: InferenceSession; model: EncodedModel; close?(): void }>;
  /** Where ONNX Runtime can write a session's profile. Absent where it cannot. */
  profiling?(): Profiling;
  /** Whether variables that a run updates stay in the graphics processor's memory; see {@link Device.toHost}. */
  readonly keepsState?: boolean;
  /** Whether this ONNX Runtime copies outputs that already stand in the caller's buffers; see unreturned-results.ts. */
  readonly copiesOutputs?: boolean;
  /** Stored values as `dtype`, in memory. An array that is there already is returned itself. */
  load(storage: Storage, dtype: DType): TypedArray;
  /** Removes what it keeps between sessions. */
  dispose?(): void;
}

/** One session's profile on its way from ONNX Runtime: the file that it is asked to write, and that file's text once it has. */
export interface Profiling {
  readonly prefix: string;
  /** To be called once. */
  read(): string;
}

/** The present values of a variable on a device, and the buffer that its next values are written to. */
export interface Buffers {
  current: OrtTensor;
  spare: OrtTensor | undefined;
  /** The version of the variable's storage that these values come from or were moved into. */
  version: number;
}

/**
 * A place to run graphs: one execution provider of one ONNX Runtime, and the present values of variables there.
 * A variable has two buffers: a run reads one and writes the other, then they change places, because an output must not alias an input.
 * So runs of one device follow one another, in the order in which they were asked for, whatever their programs.
 */
export class Device {
  readonly platform: Platform;
  readonly #state = new WeakMap<Variable, Buffers>();
  readonly #programs = new Set<Program>();
  /** The variables whose present values the host does not have, each with the program that holds them. */
  readonly #away = new Map<Variable, Program>();
  #last: Promise<unknown> = Promise.resolve();
  /** What the runs so far have taken within ONNX Runtime. */
  sessionMilliseconds = 0;
  /** Of the programs whose profile has ended, while one is made. */
  #profiles: SessionProfile[] | undefined;

  constructor(platform: Platform) {
    this.platform = platform;
  }

  get provider(): Provider {
    return this.platform.provider;
  }

  /** What training computes matrix products in. */
  get compute(): ComputeDtype {
    return this.platform.compute ?? "float32";
  }

  /**
   * Compiles a graph. Frozen variables become constants of the program as they are now: a storage that they are given later counts for
   * programs compiled later.
   */
  async compile(traced: Traced): Promise<Program> {
    const profiles = this.#profiles;
    const profiling = profiles && this.platform.profiling?.();
    const encodeWith = (files?: Pick<Parameters<typeof encode>[1], "external">) =>
      encode(traced, {
        provider: this.provider,
        values: (v, dtype) => this.platform.load(v.storage, dtype),
        sentinel: this.platform.copiesOutputs && avoidsCopies(traced),
        ...files,
      });
    const { session, model, close } = await this.platform.open(traced, encodeWith, profiling);
    const closed = () => {
      this.#programs.delete(program);
      close?.();
    };
    const program: Program = new Program(this, session, model, {
      keepsState: this.platform.keepsState,
      closed,
      profiling,
      profiled: (profile) => profiles?.push(profile),
    });
    this.#programs.add(program);
    return program;
  }

  /**
   * Has ONNX Runtime note the time of every operator in the programs that are compiled from now on.
   *
   * @throws EspalierError `no-profile` where this ONNX Runtime cannot
   */
  startProfile(): void {
    if (!this.platform.profiling)
      throw new EspalierError("no-profile", "This ONNX Runtime writes no profiles: profile on a device of Node (espalier/node).");
    this.#profiles = [];
  }

  /** Ends what {@link startProfile} began, after the runs that were asked for: what the operators of each program did. */
  async endProfile(): Promise<SessionProfile[]> {
    const profiles = this.#profiles ?? [];
    this.#profiles = undefined;
    await Promise.all([...this.#programs].map((program) => program.endProfile()));
    return profiles;
  }

  /**
   * Brings the present values of variables to the host, where {@link read}, {@link write} and {@link persist} find them: of these, or of all that a
   * program holds. Where nothing stays on the device ({@link Platform.keepsState}), there is nothing to do. To be awaited before a checkpoint.
   */
  async toHost(variables: Iterable<Variable> = this.#away.keys()): Promise<void> {
    const away = [...variables].filter((v) => this.#away.has(v));
    if (away.length === 0) return;
    const program = await this.compile(trace({}, () => Object.fromEntries(away.map((v, i) => [`${i}`, read(v)]))));
    try {
      const values = await program.run();
      for (const [i, v] of away.entries()) this.#come(v, this.tensor(values[`${i}`]!));
    } finally {
      await program.dispose();
    }
  }

  /** Takes the results of a run that keeps state for the present values. */
  keep(program: Program, variable: Variable, value: OrtTensor): void {
    if (value.location === "cpu") this.#come(variable, value);
    else {
      this.#replace(variable, value);
      this.#away.set(variable, program);
    }
  }

  /** Brings to the host what a program holds, before its memory goes. */
  leaving(program: Program): Promise<void> {
    return this.toHost([...this.#away].flatMap(([v, holder]) => (holder === program ? [v] : [])));
  }

  #come(variable: Variable, value: OrtTensor): void {
    this.#replace(variable, value);
    this.#away.delete(variable);
  }

  #replace(variable: Variable, value: OrtTensor): void {
    const buffers = this.buffers(variable);
    if (buffers.current.location !== "cpu") buffers.current.dispose();
    buffers.current = value;
  }

  /** Disposes of all programs and removes their files. */
  async dispose(): Promise<void> {
    for (const program of [...this.#programs]) await program.dispose();
    this.platform.dispose?.();
  }

  /** Runs `task` when all that were asked for before have ended. */
  exclusive<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** The present values of a variable, copied. Those of a frozen one are what programs compute with, rounded to its `constantDtype`. */
  read(variable: Variable): HostTensor {
    if (variable.frozen) return this.#stored(variable);
    const { current } = this.buffers(variable);
    if (this.#away.has(variable))
      throw new EspalierError(
        "on-device",
        `The present values of "${variable.name}" are in the graphics processor's memory. Await device.toHost() before they are read.`,
      );
    return hostTensor(variable.dtype, variable.shape, (current.data as TypedArray).slice());
  }

  /** Overwrites the present values of a variable. */
  write(variable: Variable, data: TypedArray): void {
    if (variable.frozen) {
      throw new EspalierError(
        "frozen",
        `Variable "${variable.name}" is frozen: programs hold its values as constants. Unfreeze it before they are compiled, or set its storage and compile again.`,
      );
    }
    const count = elementCount(variable.shape);
    if (count !== data.length)
      throw new EspalierError(
        "shape-mismatch",
        `Variable "${variable.name}" ${formatShape(variable.shape)} holds ${count} elements, got ${data.length}.`,
      );
    if (this.#away.has(variable)) this.#come(variable, this.tensor(hostTensor(variable.dtype, variable.shape, data.slice())));
    else (this.buffers(variable).current.data as TypedArray).set(data as never);
  }

  /** Moves the present values into the variable's storage, so that they outlive the device. */
  persist(variable: Variable): void {
    const buffers = this.#state.get(variable);
    // A storage given since then is newer than the buffers.
    if (variable.frozen || buffers?.version !== variable.version) return;
    variable.storage = { kind: "memory", ...this.read(variable) };
    buffers.version = variable.version;
  }

  /** Forgets the device's buffers of a variable: the next run starts from its storage. */
  release(variable: Variable): void {
    if (this.#away.delete(variable)) this.#state.get(variable)?.current.dispose();
    this.#state.delete(variable);
  }

  tensor(host: HostTensor): OrtTensor {
    return new this.platform.ort.Tensor(host.dtype as "float32", host.data as Float32Array, host.shape);
  }

  /** The buffers of a variable, filled from its storage when that is new to the device. */
  buffers(variable: Variable): Buffers {
    let buffers = this.#state.get(variable);
    if (buffers?.version !== variable.version) {
      if (this.#away.delete(variable)) buffers?.current.dispose();
      buffers = { current: this.tensor(this.#stored(variable)), spare: undefined, version: variable.version };
      this.#state.set(variable, buffers);
    }
    return buffers;
  }

  /** A copy of the values that the variable's storage holds. */
  #stored(variable: Variable): HostTensor {
    const { dtype, shape, frozen, constantDtype } = variable;
    const storage = frozen && constantDtype ? converted(variable.storage, constantDtype) : variable.storage;
    const values = this.platform.load(storage, dtype);
    // A storage keeps what it holds in memory; what was read from a file or converted is new.
    const own = storage.dtype !== dtype || storage.kind === "file" || storage.kind === "converted";
    return hostTensor(dtype, shape, own ? values : values.slice());
  }

  /** As {@link buffers}, with a spare one. */
  writable(variable: Variable): Buffers & { spare: OrtTensor } {
    const buffers = this.buffers(variable);
    buffers.spare ??= this.tensor(hostTensor(variable.dtype, variable.shape, allocate(variable.dtype, elementCount(variable.shape))));
    return buffers as Buffers & { spare: OrtTensor };
  }
}
