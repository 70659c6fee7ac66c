import type { Progress, Terminal } from "../terminal.ts";

const quietMilliseconds = 1000;

/** Progress of work before the first step, which takes a moment or minutes: nothing is shown of what is done within a second. */
export class Patience {
  readonly #terminal: Terminal;
  readonly #phases = new Map<string, { began: number; last: number; shown: Progress | undefined }>();

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  /** @param show puts amounts into words */
  of(label: string, details: string, show?: (amount: number) => string): (done: number, of: number) => void {
    return (done, of) => {
      const now = performance.now();
      const phase = this.#phases.get(label) ?? { began: now, last: 0, shown: undefined };
      this.#phases.set(label, phase);
      // The next of several parts.
      if (done < phase.last && !phase.shown) phase.began = now;
      phase.last = done;
      if (now - phase.began < quietMilliseconds) return;
      if (!phase.shown) {
        phase.shown = this.#terminal.progress(label, of, show);
        this.#terminal.showCursor(); // the process may end at any time
      }
      phase.shown.update(done, details, of);
    };
  }

  stop(): void {
    for (const { shown } of this.#phases.values()) shown?.stop();
    this.#phases.clear();
  }
}
