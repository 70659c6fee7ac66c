/**
 * Regular expressions come with checkpoints (tokenizer.json, adapter_config.json), written by strangers, and JavaScript has no bound on the time that
 * one may take: `(a+)+$` doubles it with every letter. In Node the virtual machine's watchdog stops what takes too long.
 */
interface Watchdog {
  createContext(values: object): object;
  Script: new (source: string) => { runInContext(context: object, options: { timeout: number }): unknown };
}

interface Host {
  process?: { getBuiltinModule?(name: string): unknown };
}

export class TimeLimitError extends Error {}

// Asked for at run time, because a browser loads this file as well. It has no watchdog; there the page's own must do.
const watchdog = (globalThis as Host).process?.getBuiltinModule?.("node:vm") as Watchdog | undefined;
let prepared: { values: { run?: () => void }; call: (milliseconds: number) => unknown } | undefined;

function prepare(vm: Watchdog): NonNullable<typeof prepared> {
  const values: { run?: () => void } = {};
  const context = vm.createContext(values);
  const script = new vm.Script("run()");
  return { values, call: (timeout) => script.runInContext(context, { timeout }) };
}

/**
 * The result of `run`, a pure function that may be stopped in the middle. It gets the time twice: when the machine stood still during the first,
 * that was not its fault. Costs 50 µs.
 *
 * @param milliseconds a positive whole number
 * @throws TimeLimitError when it is not done after twice the time, and what `run` throws
 */
export function withinTime<T>(milliseconds: number, run: () => T): T {
  if (!watchdog) return run();
  prepared ??= prepare(watchdog);
  let result!: T;
  for (let attempt = 1; ; attempt++) {
    prepared.values.run = () => {
      result = run();
    };
    try {
      prepared.call(milliseconds);
      return result;
    } catch (cause) {
      if ((cause as { code?: unknown } | undefined)?.code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw cause;
      if (attempt === 2) throw new TimeLimitError(`was not done after ${(2 * milliseconds) / 1000} seconds`, { cause });
    } finally {
      delete prepared.values.run;
    }
  }
}
