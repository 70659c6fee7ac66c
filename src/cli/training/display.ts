import { EventFile } from "../../train/event-file.ts";
import type { StepReport } from "../../train/train-options.ts";
import { formatBytes, formatCount, formatDuration, type Progress, type Terminal } from "../terminal.ts";

export const formatMetrics = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .map(([name, v]) => `${name} ${v.toFixed(4)}`)
    .join("  ");

/** What the user sees of a run while it goes: a bar or lines, and TensorBoard's file where it is asked for. */
export class RunDisplay {
  readonly #terminal: Terminal;
  readonly #bar: Progress;
  readonly #directory: string;
  #tensorboard: boolean;
  #events: EventFile | undefined;
  #firstStep: number | undefined;
  #began = performance.now();

  /** @param from the step that the run goes on from; 0 for a new one */
  constructor(
    terminal: Terminal,
    { from, steps, directory, tensorboard }: { from: number; steps: number; directory: string; tensorboard: boolean },
  ) {
    this.#terminal = terminal;
    this.#directory = directory;
    this.#tensorboard = tensorboard;
    this.#bar = terminal.progress("train", steps);
    if (from < steps) this.#bar.update(from, "compiling the step");
  }

  step({ step, steps, loss, learningRate, gradientNorm, tokensPerSecond, memory }: StepReport): void {
    if (this.#firstStep === undefined) {
      // Its time is mostly that of compiling, which says nothing of the others.
      this.#firstStep = step;
      this.#began = performance.now();
    }
    const done = step - this.#firstStep;
    const left = done === 0 ? "" : `${formatDuration(((performance.now() - this.#began) / 1000 / done) * (steps - step))} left  `;
    this.#bar.update(step, `loss ${loss.toFixed(3)}  ${formatCount(Math.round(tokensPerSecond))} tokens/s  ${left}${formatBytes(memory)}`);
    this.#scalars(step, {
      "train/loss": loss,
      "train/learningRate": learningRate,
      "train/gradientNorm": gradientNorm,
      "train/tokensPerSecond": tokensPerSecond,
    });
  }

  evaluation(step: number, metrics: Readonly<Record<string, number>>): void {
    this.#terminal.line(`step ${step}: held-out ${formatMetrics(metrics)}`);
    this.evaluated(step, metrics);
  }

  /** As {@link evaluation}, of what the terminal has said already. */
  evaluated(step: number, metrics: Readonly<Record<string, number>>): void {
    this.#scalars(step, Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval/${name}`, value])));
  }

  stop(): void {
    this.#bar.stop();
  }

  close(): void {
    this.#events?.close();
    this.#events = undefined;
  }

  /** These files are for looking at: what hinders their writing does not end a run. */
  #scalars(step: number, values: Readonly<Record<string, number>>): void {
    if (!this.#tensorboard) return;
    try {
      this.#events ??= new EventFile(this.#directory, step);
      this.#events.scalars(step, values);
    } catch (error) {
      this.#terminal.line(`TensorBoard's file cannot be written any more (${(error as Error).message}); the run goes on.`);
      this.#tensorboard = false;
    }
  }
}
