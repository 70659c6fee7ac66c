import { type Tensor, type TensorType, trace } from "../graph/index.ts";
import type { Device, HostTensor, Program } from "./device.ts";

/** Functions of tensors, compiled once for each combination of input shapes and kept. */
export interface Jit<I extends string, O extends string> {
  (feeds: Readonly<Record<I, HostTensor>>): Promise<Record<O, HostTensor>>;
  /** Compiles for these types without running. */
  prepare(types: Readonly<Record<I, TensorType>>): Promise<void>;
  /** The number of programs compiled so far and still held. */
  readonly size: number;
  dispose(): Promise<void>;
}

export interface JitOptions {
  /** Programs kept; the one unused for longest goes first. Default 16. */
  capacity?: number;
}

/** Compiles `fn` at its first call with each combination of input types. */
export function jit<I extends string, O extends string>(
  device: Device,
  fn: (inputs: Record<I, Tensor>) => Record<O, Tensor>,
  options: JitOptions = {},
): Jit<I, O> {
  const capacity = options.capacity ?? 16;
  const programs = new Map<string, Promise<Program>>();

  const program = (types: Readonly<Record<I, TensorType>>): Promise<Program> => {
    const key = Object.entries<TensorType>(types)
      .map(([name, { dtype, shape }]) => `${name}:${dtype}[${shape.join()}]`)
      .sort()
      .join(" ");
    const known = programs.get(key);
    programs.delete(key);
    const compiled = known ?? device.compile(trace(types, (inputs) => fn(inputs as Record<I, Tensor>)));
    programs.set(key, compiled);
    // A failed compilation is not kept: the next call reports it afresh.
    if (!known) compiled.catch(() => programs.delete(key));
    if (programs.size > capacity) {
      const [oldest] = programs;
      programs.delete(oldest![0]);
      void oldest![1].then((p) => p.dispose());
    }
    return compiled;
  };

  const call = async (feeds: Readonly<Record<I, HostTensor>>) => (await (await program(feeds)).run(feeds)) as Record<O, HostTensor>;
  return Object.defineProperty(
    Object.assign(call, {
      async prepare(types: Readonly<Record<I, TensorType>>) {
        await program(types);
      },
      async dispose() {
        const all = [...programs.values()];
        programs.clear();
        for (const p of all) await (await p).dispose();
      },
    }),
    "size",
    { get: () => programs.size },
  ) as Jit<I, O>;
}
