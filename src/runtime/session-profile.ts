import { EspalierError } from "../graph/index.ts";

/** What a program's operators did, run by run. Times are milliseconds on the clock of performance.now(). */
export interface SessionProfile {
  readonly runs: readonly { readonly start: number; readonly milliseconds: number }[];
  /** In the order in which they began. */
  readonly operators: readonly OperatorRun[];
}

export interface OperatorRun {
  /** Of the node: its module path, and the operators of ours and of ONNX. */
  readonly name: string;
  /** ONNX's. */
  readonly operator: string;
  readonly start: number;
  readonly milliseconds: number;
  /** Without the operators within it, as an `If` and a `Scan` have them. */
  readonly own: number;
  readonly inputs: readonly (readonly number[])[];
  readonly outputs: readonly (readonly number[])[];
}

/** ONNX Runtime's own event; times in microseconds since the session was begun. */
interface Event {
  cat: string;
  name: string;
  ts: number;
  dur: number;
  args: { op_name?: string; input_type_shape?: TypedShape[]; output_type_shape?: TypedShape[] };
}
type TypedShape = Readonly<Record<string, readonly number[]>>;

const suffix = "_kernel_time";

/**
 * Reads the profile that ONNX Runtime writes. What it notes before and after the runs (loading, fences) is left out.
 *
 * @param began when each of the runs was begun, on the clock of performance.now()
 */
export function readSessionProfile(text: string, began: readonly number[]): SessionProfile {
  let events: Event[];
  try {
    events = JSON.parse(text) as Event[];
  } catch (cause) {
    throw new EspalierError("no-profile", "ONNX Runtime's profile is cut short: the disk may be full.", { cause });
  }
  const runs = events.filter(({ cat, name }) => cat === "Session" && name === "model_run");
  // No run began before it was asked to: the one that took least to begin tells how the two clocks differ.
  const offset = Math.max(...runs.flatMap(({ ts }, i) => (began[i] === undefined ? [] : [began[i] - ts / 1000])));
  const nodes = events.filter(({ cat, name }) => cat === "Node" && name.endsWith(suffix)).sort((a, b) => a.ts - b.ts || b.dur - a.dur);
  const within = new Map(nodes.map((event) => [event, 0]));
  const open: Event[] = [];
  for (const event of nodes) {
    while (open.length > 0 && end(open.at(-1)!) <= event.ts) open.pop();
    const outer = open.at(-1);
    if (outer) within.set(outer, within.get(outer)! + event.dur);
    open.push(event);
  }
  return {
    runs: runs.map(({ ts, dur }) => ({ start: offset + ts / 1000, milliseconds: dur / 1000 })),
    operators: nodes.map((event) => ({
      name: event.name.slice(0, -suffix.length),
      operator: event.args.op_name ?? "",
      start: offset + event.ts / 1000,
      milliseconds: event.dur / 1000,
      own: Math.max(0, event.dur - within.get(event)!) / 1000,
      inputs: shapesOf(event.args.input_type_shape),
      outputs: shapesOf(event.args.output_type_shape),
    })),
  };
}

const end = ({ ts, dur }: Event): number => ts + dur;

const shapesOf = (shapes: readonly TypedShape[] = []): (readonly number[])[] => shapes.map((shape) => Object.values(shape)[0] ?? []);
