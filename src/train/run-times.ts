import type { StepOutcome } from "./step-runner.ts";
import type { RunMilliseconds } from "./train-options.ts";

/** Where the time of a run goes. */
export class RunTimes {
  readonly #milliseconds: RunMilliseconds = { data: 0, session: 0, compile: 0, checkpoints: 0, evaluations: 0, rest: 0 };
  /** Of steps whose programs were compiled before. */
  readonly #warm = { tokens: 0, milliseconds: 0 };

  get milliseconds(): RunMilliseconds {
    return { ...this.#milliseconds };
  }

  /** Of the steps alone; undefined where each compiled a program. */
  get tokensPerSecond(): number | undefined {
    const { tokens, milliseconds } = this.#warm;
    return milliseconds > 0 ? (tokens / milliseconds) * 1000 : undefined;
  }

  /** A step with all that follows it; what has no name of its own is the rest. */
  async turn(step: () => Promise<void>): Promise<void> {
    const [began, counted] = [performance.now(), this.#counted()];
    await step();
    this.#milliseconds.rest += performance.now() - began - (this.#counted() - counted);
  }

  #counted(): number {
    const { data, session, compile, checkpoints, evaluations } = this.#milliseconds;
    return data + session + compile + checkpoints + evaluations;
  }

  async during<T>(part: "checkpoints" | "evaluations", action: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const result = await action();
    this.#milliseconds[part] += performance.now() - began;
    return result;
  }

  /** @returns the tokens per second of this step, compilation not counted */
  step({ milliseconds: { data, session, rest, compile }, tokens, warm }: StepOutcome): number {
    const taken = data + session + rest;
    this.#milliseconds.data += data;
    this.#milliseconds.session += session;
    this.#milliseconds.compile += compile;
    if (warm) {
      this.#warm.tokens += tokens;
      this.#warm.milliseconds += taken;
    }
    return (tokens / taken) * 1000;
  }
}
