import { type Tensor, type TensorType, type Traced, trace } from "../graph/index.ts";
import type { Device, HostTensor, Program } from "./device.ts";
import type { Accept } from "./program.ts";

type Feeds<I extends string> = Readonly<Record<I, HostTensor>>;
type Types<I extends string> = Readonly<Record<I, TensorType>>;

/** A traced function, compiled once for each combination of input shapes and kept. */
export interface Jit<I extends string, O extends string> {
  /**
   * Runs the program for the types of `feeds`; it is fed `common` too, which never asks for another program (a learning rate, a seed). Where
   * `accept` refuses the outputs, no variable changes.
   */
  (feeds: Feeds<I>, common?: Feeds<string>, accept?: Accept): Promise<Record<O, HostTensor>>;
  /** Compiles for these types without running. */
  prepare(types: Types<I>): Promise<void>;
  /** The number of programs compiled so far and still held. */
  readonly size: number;
  /** Frees the programs, each when its last run has ended. */
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
  return jitTraced(device, (types) => trace(types, (inputs) => fn(inputs as Record<I, Tensor>)), options);
}

/** As {@link jit}, of what traces a whole program for given input types: one with further inputs of its own, or with updates of variables. */
export function jitTraced<I extends string, O extends string>(
  device: Device,
  tracer: (types: Types<I>) => Traced,
  options: JitOptions = {},
): Jit<I, O> {
  const capacity = options.capacity ?? 16;
  const held = new Map<string, Held>();

  const holding = (feeds: Types<I>): Held => {
    const types = Object.entries<TensorType>(feeds).map(([name, { dtype, shape }]) => [name, { dtype, shape }] as const);
    const key = types
      .map(([name, { dtype, shape }]) => `${name}:${dtype}[${shape.join()}]`)
      .sort()
      .join(" ");
    const known = held.get(key);
    held.delete(key);
    const entry = known ?? new Held(device.compile(tracer(Object.fromEntries(types) as Types<I>)));
    held.set(key, entry);
    // A failed compilation is not kept: the next call reports it afresh.
    if (!known) entry.program.catch(() => held.get(key) === entry && held.delete(key));
    if (held.size > capacity) {
      const [oldest] = held;
      held.delete(oldest![0]);
      // Whoever disposes of the device hears of a session that cannot be released.
      oldest![1].retire().catch(() => undefined);
    }
    return entry;
  };

  const call = async (feeds: Feeds<I>, common?: Feeds<string>, accept?: Accept) =>
    (await holding(feeds).run({ ...common, ...feeds }, accept)) as Record<O, HostTensor>;
  return Object.defineProperty(
    Object.assign(call, {
      async prepare(types: Types<I>) {
        await holding(types).program;
      },
      async dispose() {
        const all = [...held.values()];
        held.clear();
        await Promise.all(all.map((entry) => entry.retire()));
      },
    }),
    "size",
    { get: () => held.size },
  ) as Jit<I, O>;
}

/** A program that is disposed of once it is retired and no call runs it or waits for it to be compiled. */
class Held {
  readonly program: Promise<Program>;
  #running = 0;
  #retired = false;
  readonly #gone: Promise<void>;
  #release: () => void = () => undefined;

  constructor(program: Promise<Program>) {
    this.program = program;
    this.#gone = new Promise<void>((resolve) => {
      this.#release = resolve;
    }).then(() =>
      program.then(
        (p) => p.dispose(),
        () => undefined, // it was never compiled; the call that asked for it was told
      ),
    );
  }

  async run(feeds: Feeds<string>, accept?: Accept): Promise<Record<string, HostTensor>> {
    this.#running++;
    try {
      return await (await this.program).run(feeds, accept);
    } finally {
      this.#running--;
      this.#releaseWhenIdle();
    }
  }

  /** Resolves when the program is disposed of. */
  retire(): Promise<void> {
    this.#retired = true;
    this.#releaseWhenIdle();
    return this.#gone;
  }

  #releaseWhenIdle(): void {
    if (this.#retired && this.#running === 0) this.#release();
  }
}
