import { EspalierError } from "../../graph/index.ts";

/** Work that spreads by itself, as data: so that it may be done in this process, in another one, or on another machine. */
export interface Job {
  /** Which handler does it. */
  kind: string;
  /** Plain data. */
  payload: unknown;
}

/** Where jobs are done. Searches, and whatever else spreads, know nothing more of it. */
export interface Executor {
  /** Jobs done at once; further ones wait. */
  readonly slots: number;
  /** Does a job, and gives what its handler returns, or throws what it throws. */
  run(job: Job): Promise<unknown>;
  /** Frees what the executor holds, when the jobs asked for have ended. */
  close(): Promise<void>;
}

export type Handlers = Readonly<Record<string, (payload: never) => Promise<unknown>>>;

/** Does jobs in this process, `slots` at once and in the order in which they come. */
export class LocalExecutor implements Executor {
  readonly slots: number;
  readonly #handlers: Handlers;
  readonly #waiting: (() => void)[] = [];
  #busy = 0;

  constructor(handlers: Handlers, slots = 1) {
    this.#handlers = handlers;
    this.slots = slots;
  }

  async run({ kind, payload }: Job): Promise<unknown> {
    const handler = this.#handlers[kind];
    if (!handler) throw new EspalierError("no-handler", `Nobody here does "${kind}"; there is ${Object.keys(this.#handlers).join(", ")}.`);
    if (this.#busy < this.slots) this.#busy++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await handler(payload as never);
    } finally {
      // The slot goes to whoever waits, or is free.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#busy--;
    }
  }

  async close(): Promise<void> {}
}
