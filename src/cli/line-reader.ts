import { createInterface, type Interface } from "node:readline";
import { echoMilliseconds } from "./signals.ts";

/**
 * Lines of standard input, one at a time. On a terminal there is a prompt, and a line can be edited; elsewhere there are only the lines.
 * `onInterrupt` hears Ctrl-C, which ends nothing by itself.
 */
export class LineReader {
  readonly interactive: boolean;
  readonly #readline: Interface;
  readonly #onSignal: () => void;
  readonly #lines: string[] = [];
  #waiting: ((line: string | undefined) => void) | undefined;
  #closed = false;

  constructor(onInterrupt: () => void, input: NodeJS.ReadStream = process.stdin, output: NodeJS.WriteStream = process.stdout) {
    this.interactive = input.isTTY === true && output.isTTY === true;
    this.#readline = createInterface({ input, ...(this.interactive && { output }), terminal: this.interactive, prompt: "> " });
    this.#readline.on("line", (line) => this.#deliver(line));
    this.#readline.on("close", () => {
      this.#closed = true;
      this.#deliver(undefined);
    });
    let last = Number.NEGATIVE_INFINITY;
    this.#onSignal = () => {
      const echo = performance.now() - last < echoMilliseconds;
      last = performance.now();
      if (!echo) onInterrupt();
    };
    // On a terminal readline takes Ctrl-C for itself; from elsewhere it is a signal.
    this.#readline.on("SIGINT", this.#onSignal);
    process.on("SIGINT", this.#onSignal);
  }

  /** The next line; undefined after the last, or once closed. */
  next(): Promise<string | undefined> {
    const line = this.#lines.shift();
    if (line !== undefined) return Promise.resolve(line);
    if (this.#closed) return Promise.resolve(undefined);
    if (this.interactive) this.#readline.prompt();
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  /** Throws away what stands on the line being written. */
  clearLine(): void {
    if (!this.interactive) return;
    this.#readline.write(null, { ctrl: true, name: "e" });
    this.#readline.write(null, { ctrl: true, name: "u" });
    this.#readline.prompt();
  }

  close(): void {
    process.off("SIGINT", this.#onSignal);
    this.#readline.close();
  }

  #deliver(line: string | undefined): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting) waiting(line);
    else if (line !== undefined) this.#lines.push(line);
  }
}
