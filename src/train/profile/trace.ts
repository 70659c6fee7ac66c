import type { ProfiledSteps } from "./table.ts";
import { operationsOf, phases } from "./work.ts";

/** An event of Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open. Times in microseconds. */
export type TraceEvent =
  | { ph: "M"; pid: number; tid: number; name: "process_name" | "thread_name"; args: { name: string } }
  | { ph: "M"; pid: number; tid: number; name: "thread_sort_index"; args: { sort_index: number } }
  | { ph: "X"; pid: number; tid: number; name: string; cat: string; ts: number; dur: number; args: Readonly<Record<string, unknown>> };

/** A step as the trainer sees it. Times in milliseconds. */
export interface StepSpan {
  readonly step: number;
  readonly start: number;
  readonly end: number;
  /** Waiting for its batches, which comes first. */
  readonly data: number;
}

const tracks = ["steps", "trainer", ...phases] as const;
const pid = 1;

/** The profiled steps on five tracks: the steps; the trainer waiting for data, in ONNX Runtime and between; the operators of each pass. */
export function profileTrace(
  { start, runs, work }: ProfiledSteps,
  spans: readonly StepSpan[],
): { traceEvents: TraceEvent[]; displayTimeUnit: "ms" } {
  const span = (
    track: (typeof tracks)[number],
    name: string,
    [from, milliseconds]: readonly [number, number],
    args: Readonly<Record<string, unknown>> = {},
  ): TraceEvent => ({
    ph: "X",
    pid,
    tid: tracks.indexOf(track) + 1,
    name,
    cat: track,
    // To a nanosecond: the format's times have three digits.
    ts: Number(((from - start) * 1000).toFixed(3)),
    dur: Number((milliseconds * 1000).toFixed(3)),
    args,
  });
  const ofStep = (s: StepSpan): TraceEvent[] => {
    const inside = runs.filter((run) => run.start >= s.start && run.start < s.end);
    const events = [span("steps", `step ${s.step}`, [s.start, s.end - s.start])];
    let at = s.start;
    const until = (time: number) => {
      if (time > at) events.push(span("trainer", "host", [at, time - at]));
    };
    if (s.data > 0) {
      events.push(span("trainer", "data", [at, s.data]));
      at += s.data;
    }
    for (const run of inside) {
      until(run.start);
      events.push(span("trainer", "session", [run.start, run.milliseconds]));
      at = run.start + run.milliseconds;
    }
    until(s.end);
    return events;
  };
  return {
    traceEvents: [
      { ph: "M", pid, tid: 0, name: "process_name", args: { name: "espalier train" } },
      ...tracks.flatMap((name, i): TraceEvent[] => [
        { ph: "M", pid, tid: i + 1, name: "thread_name", args: { name } },
        { ph: "M", pid, tid: i + 1, name: "thread_sort_index", args: { sort_index: i } },
      ]),
      ...spans.flatMap(ofStep),
      ...work.map((w) => {
        const operations = operationsOf(w);
        return span(w.phase, `${w.module} ${w.operator}`, [w.start, w.milliseconds], {
          node: w.name,
          inputs: w.inputs.map(String),
          outputs: w.outputs.map(String),
          ...(operations > 0 && { "GFLOP/s": Math.round(operations / w.milliseconds / 1e6) }),
        });
      }),
    ],
    displayTimeUnit: "ms",
  };
}
