import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { Tinypool } from "tinypool";
import { EspalierError } from "../../graph/index.ts";
import { type Executor, type Job, LocalExecutor } from "../../train/search/executor.ts";
import { trainTrial } from "./trial.ts";

/** Trials in this process, or several at once in processes of their own. */
export function trialExecutor(workers: number): Executor {
  return workers === 1 ? new LocalExecutor({ trainTrial }) : new WorkerPool(workers);
}

/** Processor threads of each of several workers. */
export const threadsPerWorker = (workers: number): number => Math.max(1, Math.floor(availableParallelism() / workers));

/** Processes that do jobs: the functions that `trial.ts` exports. */
class WorkerPool implements Executor {
  readonly slots: number;
  readonly #pool: Tinypool;

  constructor(slots: number) {
    this.slots = slots;
    const source = import.meta.url.endsWith(".ts");
    this.#pool = new Tinypool({
      filename: fileURLToPath(new URL(source ? "./trial.ts" : "./trial.js", import.meta.url)),
      runtime: "child_process",
      minThreads: 0,
      maxThreads: slots,
      execArgv: process.execArgv,
    });
  }

  async run({ kind, payload }: Job): Promise<unknown> {
    try {
      return await this.#pool.run(payload, { name: kind });
    } catch (cause) {
      throw new EspalierError("worker-failed", `A worker process ended: ${cause instanceof Error ? cause.message : cause}`, { cause });
    }
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }
}
