import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EspalierError } from "../../graph/index.ts";
import type { Device } from "../../runtime/index.ts";
import { type ProfiledSteps, profileTable } from "./table.ts";
import { profileTrace, type StepSpan } from "./trace.ts";
import { workOf } from "./work.ts";

export interface StepProfilerOptions {
  /** Where `table.md` and `trace.json` are written. */
  directory: string;
  /** The first of the steps that are profiled, counted from where the run begins or goes on. Default 3: programs' first runs are slower. */
  from?: number;
  /** The last one. Default 7. */
  to?: number;
}

export interface ProfileFiles {
  /** Where the time of a step goes: a page of Markdown. */
  table: string;
  /** For Perfetto (ui.perfetto.dev) or chrome://tracing. */
  trace: string;
}

/**
 * Profiles some steps of a run, operator by operator, and writes a table and a trace while the run goes on. Programs are compiled in the first step, so
 * it must be made before; `step` is to be called at the end of each step.
 *
 * ```ts
 * const profiler = new StepProfiler(device, { directory: "run/profile" });
 * await train({ …, onStep: (report) => profiler.step(report) });
 * await profiler.finish();
 * ```
 */
export class StepProfiler {
  readonly #device: Device;
  readonly #directory: string;
  readonly #from: number;
  readonly #to: number;
  readonly #spans: StepSpan[] = [];
  #seen = 0;
  #last = performance.now();
  #written: Promise<ProfileFiles> | undefined;

  /** @throws EspalierError `bad-option` for steps that do not follow one another, `no-profile` where the device cannot */
  constructor(device: Device, { directory, from = 3, to = Math.max(from, 7) }: StepProfilerOptions) {
    if (!Number.isInteger(from) || !Number.isInteger(to) || from < 1 || to < from)
      throw new EspalierError("bad-option", `Steps to be profiled are numbered from 1, the first before the last; got ${from} to ${to}.`);
    [this.#device, this.#directory, this.#from, this.#to] = [device, directory, from, to];
    device.startProfile();
  }

  /** A step has ended. */
  step({ step, milliseconds }: { step: number; milliseconds?: { data: number } }): void {
    const [start, end] = [this.#last, performance.now()];
    this.#last = end;
    this.#seen++;
    if (this.#written || this.#seen < this.#from) return;
    this.#spans.push({ step, start, end, data: milliseconds?.data ?? 0 });
    if (this.#seen === this.#to) this.#end();
  }

  /** After the run: the files; undefined when it ended before the first of the steps. */
  async finish(): Promise<ProfileFiles | undefined> {
    if (!this.#written && this.#spans.length > 0) this.#end();
    if (!this.#written) await this.#device.endProfile();
    return this.#written;
  }

  #end(): void {
    this.#written = this.#write();
    // Whoever calls finish hears of it; the run goes on.
    this.#written.catch(() => undefined);
  }

  async #write(): Promise<ProfileFiles> {
    const profiles = await this.#device.endProfile();
    const [{ start, step: first }, { end, step: last }] = [this.#spans[0]!, this.#spans.at(-1)!];
    const runs = profiles.flatMap((profile) => profile.runs.filter((run) => run.start >= start && run.start < end));
    const isOfRuns = (operator: { start: number }) =>
      runs.some((run) => operator.start >= run.start && operator.start < run.start + run.milliseconds);
    const steps: ProfiledSteps = {
      first,
      last,
      start,
      end,
      data: this.#spans.reduce((n, { data }) => n + data, 0),
      runs: runs.sort((a, b) => a.start - b.start),
      work: profiles.flatMap(({ operators }) => operators.filter(isOfRuns).map(workOf)),
    };
    const files = { table: join(this.#directory, "table.md"), trace: join(this.#directory, "trace.json") };
    mkdirSync(this.#directory, { recursive: true });
    writeFileSync(files.table, profileTable(steps));
    writeFileSync(files.trace, JSON.stringify(profileTrace(steps, this.#spans)));
    return files;
  }
}
