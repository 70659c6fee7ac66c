import type { InferenceSession, Tensor as OrtTensor } from "onnxruntime-common";
import {
  allocate,
  type DType,
  EspalierError,
  elementCount,
  evaluateDim,
  formatShape,
  type SymbolicDim,
  type TensorType,
  type TypedArray,
  type Variable,
} from "../graph/index.ts";
import type { EncodedModel } from "../onnx/index.ts";
import type { Device, Profiling } from "./device.ts";
import { type HostTensor, hostTensor } from "./host-tensor.ts";
import { readSessionProfile, type SessionProfile } from "./session-profile.ts";
import { isUnreturnedResult } from "./unreturned-results.ts";

/** An axis of an input whose size is known only when the program runs. */
interface OpenAxis {
  input: string;
  axis: number;
  dim: SymbolicDim;
}

type Types = readonly (readonly [name: string, type: TensorType])[];

/** Says of a run's outputs whether its updates count. */
export type Accept = (outputs: Readonly<Record<string, HostTensor>>) => boolean;

export interface ProgramOptions {
  /** Whether updated variables stay where the program computes: the session's outputs lie there, in memory of its own. */
  keepsState?: boolean | undefined;
  closed?(): void;
  profiling?: Profiling | undefined;
  profiled?(profile: SessionProfile): void;
}

/** A compiled graph. */
export class Program {
  readonly #device: Device;
  readonly #session: InferenceSession;
  readonly #closed: () => void;
  // Types and names only: the model's bytes and the traced graph need not live as long as the program.
  readonly #inputs: Types;
  readonly #outputs: Types;
  readonly #sentinel: string | undefined;
  readonly #variables: ReadonlyMap<string, Variable>;
  readonly #updates: ReadonlyMap<string, Variable>;
  /** Named dimensions first, then those that follow from them. */
  readonly #open: readonly OpenAxis[];
  readonly #keepsState: boolean;
  #disposal: Promise<void> | undefined;
  #profiling: Profiling | undefined;
  readonly #profiled: (profile: SessionProfile) => void;
  /** When the runs that are profiled began, as performance.now() has it. */
  #began: number[] = [];

  /** `closed` is called once the session is released, and `profiled` once its profile has ended, where `profiling` says that there is one. */
  constructor(
    device: Device,
    session: InferenceSession,
    model: EncodedModel,
    { keepsState = false, closed = () => undefined, profiling, profiled = () => undefined }: ProgramOptions = {},
  ) {
    this.#keepsState = keepsState && model.updates.size > 0;
    this.#device = device;
    this.#session = session;
    this.#closed = closed;
    this.#profiling = profiling;
    this.#profiled = profiled;
    const types = (tensors: ReadonlyMap<string, TensorType>): Types =>
      Array.from(tensors, ([name, { dtype, shape }]) => [name, { dtype, shape }] as const);
    this.#inputs = types(model.inputs);
    this.#outputs = types(model.outputs);
    this.#sentinel = model.sentinel;
    this.#variables = model.variables;
    this.#updates = model.updates;
    const axes = this.#inputs.flatMap(([input, { shape }]) =>
      shape.flatMap((dim, axis): OpenAxis[] => (typeof dim === "number" ? [] : [{ input, axis, dim }])),
    );
    this.#open = [...axes.filter((a) => isName(a.dim)), ...axes.filter((a) => !isName(a.dim))];
  }

  /**
   * Runs the graph once: returns its outputs and moves every updated variable on. When it fails, or when `accept` refuses its outputs, no
   * variable has changed. Runs that are asked for before another one has ended wait for it.
   */
  async run(feeds: Readonly<Record<string, HostTensor>> = {}, accept?: Accept): Promise<Record<string, HostTensor>> {
    if (this.#disposal) throw new EspalierError("disposed", "The program was disposed of and cannot run: compile it again.");
    const fed: Record<string, OrtTensor> = {};
    for (const [name, type] of this.#inputs) {
      const host = feeds[name];
      if (!host)
        throw new EspalierError(
          "missing-input",
          `The program needs the input "${name}" (${type.dtype} ${formatShape(type.shape)}); it got ${Object.keys(feeds).join(", ") || "none"}.`,
        );
      checkFeed(name, host, type);
      fed[name] = this.#device.tensor(host);
    }
    if (this.#open.length > 0) checkSizes(this.#open, feeds);
    return this.#device.exclusive(() => this.#run(fed, accept));
  }

  async #run(fed: Record<string, OrtTensor>, accept: Accept | undefined): Promise<Record<string, HostTensor>> {
    const fetches: Record<string, OrtTensor | null> = {};
    for (const [name, variable] of this.#variables) fed[name] = this.#device.buffers(variable).current;
    for (const [name, type] of this.#outputs) fetches[name] = this.#sentinel ? this.#device.tensor(emptyTensor(type)) : null;
    if (this.#keepsState) return this.#runKeeping(fed, fetches, accept);
    const written = Array.from(this.#updates, ([name, variable]) => {
      const buffers = this.#device.writable(variable);
      fetches[name] = buffers.spare;
      return buffers;
    });
    const results = await this.#fetch(fed, fetches);
    const outputs = Object.fromEntries(this.#outputs.map(([name]) => [name, fromOrt(results[name]!)]));
    if (accept && !accept(outputs)) return outputs;
    for (const buffers of written) [buffers.current, buffers.spare] = [buffers.spare, buffers.current];
    return outputs;
  }

  /** As {@link #run}, where what variables become stays in memory that ONNX Runtime allots on the device. */
  async #runKeeping(
    fed: Record<string, OrtTensor>,
    fetches: Record<string, OrtTensor | null>,
    accept: Accept | undefined,
  ): Promise<Record<string, HostTensor>> {
    for (const name of this.#updates.keys()) fetches[name] = null;
    const results = await this.#fetch(fed, fetches);
    const outputs = Object.fromEntries(this.#outputs.map(([name]) => [name, fromOrt(results[name]!)]));
    const accepted = !accept || accept(outputs);
    for (const [name, variable] of this.#updates) {
      if (accepted) this.#device.keep(this, variable, results[name]!);
      else results[name]!.dispose();
    }
    return outputs;
  }

  async #fetch(fed: Record<string, OrtTensor>, fetches: Record<string, OrtTensor | null>): Promise<Record<string, OrtTensor>> {
    const began = performance.now();
    if (this.#profiling) this.#began.push(began);
    try {
      if (!this.#sentinel) return await this.#session.run(fed, fetches);
      // Every output has a buffer of ours: ONNX Runtime is kept from copying them again.
      await this.#session.run(fed, { ...fetches, [this.#sentinel]: null });
    } catch (cause) {
      if (!this.#sentinel || !isUnreturnedResult(cause)) throw runError(cause);
    } finally {
      this.#device.sessionMilliseconds += performance.now() - began;
    }
    return fetches as Record<string, OrtTensor>;
  }

  /** Ends the profile, where there is one, after the runs that were asked for. */
  endProfile(): Promise<void> {
    return this.#device.exclusive(async () => this.#endProfile());
  }

  #endProfile(): void {
    const profiling = this.#profiling;
    if (!profiling) return;
    this.#profiling = undefined;
    this.#session.endProfiling();
    const text = profiling.read();
    if (this.#began.length > 0) this.#profiled(readSessionProfile(text, this.#began));
  }

  /** Frees the session when the runs asked for have ended. */
  dispose(): Promise<void> {
    this.#disposal ??= this.#dispose();
    return this.#disposal;
  }

  async #dispose(): Promise<void> {
    if (this.#keepsState) await this.#device.leaving(this);
    await this.#device.exclusive(async () => {
      this.#endProfile();
      await this.#session.release();
      this.#closed();
    });
  }
}

const isName = (dim: SymbolicDim): boolean => dim.terms.size === 1 && dim.symbols.length === 1 && dim.toString() === dim.symbols[0];

function checkFeed(name: string, host: HostTensor, type: TensorType): void {
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

/** A named dimension has one size in a run, whatever inputs it occurs in. */
function checkSizes(open: readonly OpenAxis[], feeds: Readonly<Record<string, HostTensor>>): void {
  const sizes = new Map<string, number>();
  const boundBy = new Map<string, OpenAxis>();
  for (const at of open) {
    const size = feeds[at.input]!.shape[at.axis]!;
    const expected = evaluateDim(at.dim, sizes);
    if (expected === undefined) {
      if (!isName(at.dim)) continue;
      sizes.set(at.dim.symbols[0]!, size);
      boundBy.set(at.dim.symbols[0]!, at);
    } else if (expected !== size) {
      const others = at.dim.symbols.map((s) => {
        const { input, axis } = boundBy.get(s)!;
        return `${s} is ${sizes.get(s)} by axis ${axis} of the input "${input}"`;
      });
      throw new EspalierError(
        "shape-mismatch",
        `Axis ${at.axis} of the input "${at.input}" has the size ${at.dim}, which must be ${expected} (${others.join(", ")}), but it is ${size}.`,
      );
    }
  }
}

/** A session, or what ONNX Runtime has against it. */
export async function created(session: Promise<InferenceSession>): Promise<InferenceSession> {
  try {
    return await session;
  } catch (cause) {
    if (isOutOfMemory(cause)) throw outOfMemory("A program could not be made", cause);
    throw new EspalierError("session", `ONNX Runtime refused the compiled graph: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
}

/** ONNX Runtime's refusal at run time: the node that failed, by the module path in its name, and why. */
function runError(cause: unknown): EspalierError {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (isOutOfMemory(cause)) return outOfMemory("A run could not be carried to its end", cause);
  const [, opType, name, why] = /running (\S+) node\. Name:'([^']*)' Status Message: ([\s\S]*)/.exec(message) ?? [];
  const what = opType ? `it failed in ${name || "a node without a name"} (${opType}): ${reason(why!)}` : message;
  return new EspalierError("run-failed", `The program could not be run to its end: ${what}`, { cause });
}

/** Whether an error says that memory could not be had: ONNX Runtime's arena, the C++ allocator and JavaScript's buffers each have words of their own. */
const isOutOfMemory = (cause: unknown): boolean =>
  /bad_alloc|Failed to allocate memory|Array buffer allocation failed|out of memory/i.test(
    cause instanceof Error ? cause.message : `${cause}`,
  );

function outOfMemory(what: string, cause: unknown): EspalierError {
  const size = /requested buffer of size (\d+)/.exec(cause instanceof Error ? cause.message : "")?.[1];
  const asked = size ? ` (${(Number(size) / 1e6).toFixed(0)} MB were asked for at once)` : "";
  return new EspalierError("out-of-memory", `${what}: there is not enough memory${asked}.`, { cause });
}

/** Without the source line of ONNX Runtime that an assertion's message begins with. */
const reason = (status: string): string => status.replace(/^\S+:\d+ [\s\S]*? was false\.\s*/, "").trim();

const emptyTensor = ({ dtype, shape }: TensorType): HostTensor =>
  hostTensor(dtype, shape as number[], allocate(dtype, elementCount(shape as number[])));

const fromOrt = (tensor: OrtTensor): HostTensor => hostTensor(tensor.type as DType, [...tensor.dims], tensor.data as TypedArray);
