import type { SessionProfile } from "../../runtime/index.ts";
import { acrossLayers, operationsOf, type Phase, phases, type Work } from "./work.ts";

/** What is known of the profiled steps. Times in milliseconds, all steps together. */
export interface ProfiledSteps {
  readonly first: number;
  readonly last: number;
  /** From the end of the step before to the end of the last one. */
  readonly start: number;
  readonly end: number;
  /** Waiting for batches. */
  readonly data: number;
  /** The runs within that time. */
  readonly runs: SessionProfile["runs"];
  readonly work: readonly Work[];
}

interface Row {
  milliseconds: number;
  calls: number;
  operations: number;
  /** Time of what `operations` counts. */
  productMilliseconds: number;
  byPhase: Record<Phase, number>;
}

const emptyRow = (): Row => ({
  milliseconds: 0,
  calls: 0,
  operations: 0,
  productMilliseconds: 0,
  byPhase: { forward: 0, backward: 0, optimizer: 0 },
});

function count(row: Row, work: Work): void {
  const operations = operationsOf(work);
  row.milliseconds += work.own;
  row.calls++;
  row.operations += operations;
  if (operations > 0) row.productMilliseconds += work.own;
  row.byPhase[work.phase] += work.own;
}

function grouped(work: readonly Work[], keysOf: (w: Work) => readonly string[]): Map<string, Row> {
  const rows = new Map<string, Row>();
  for (const w of work)
    for (const key of keysOf(w)) {
      const row = rows.get(key) ?? emptyRow();
      rows.set(key, row);
      count(row, w);
    }
  return rows;
}

/** A module's path and those of the modules around it. */
const ancestry = ({ module }: Work): string[] => {
  const parts = acrossLayers(module).split(".");
  return parts.map((_, i) => parts.slice(0, i + 1).join("."));
};

const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);

/**
 * The profile as a page of Markdown: where a step's time goes, then ONNX Runtime's part of it by pass, by module (layers of a stack together; a
 * module's row holds those within it) and by operator. Times are of one step; GFLOP/s are those of matrix products and convolutions.
 */
export function profileTable(steps: ProfiledSteps): string {
  const { first, last, start, end, data, runs, work } = steps;
  const count = last - first + 1;
  const all = end - start;
  const session = sum(runs.map((run) => run.milliseconds));
  const operators = sum(work.map((w) => w.own));
  const ms = (milliseconds: number) => (milliseconds / count).toFixed(milliseconds / count < 10 ? 2 : 1);
  const share = (milliseconds: number, of: number) => `${((100 * milliseconds) / of).toFixed(1)} %`;
  const line = (...cells: (string | number)[]) => `| ${cells.join(" | ")} |`;
  const table = (head: string[], rows: string[][]) => [
    line(...head),
    line(...head.map((_, i) => (i === 0 ? "---" : "---:"))),
    ...rows.map((r) => line(...r)),
  ];
  const figures = (row: Row) => [
    share(row.milliseconds, session),
    ms(row.milliseconds),
    ...phases.map((phase) => (row.byPhase[phase] > 0 ? ms(row.byPhase[phase]) : "")),
    (row.calls / count).toFixed(0),
    row.operations > 0 ? (row.operations / row.productMilliseconds / 1e6).toFixed(0) : "",
  ];
  const columns = ["share", "ms", ...phases, "calls", "GFLOP/s"];
  const byTime = (rows: Map<string, Row>) => [...rows].sort(([, a], [, b]) => b.milliseconds - a.milliseconds);
  const modules = [...grouped(work, ancestry)].sort(([a], [b]) => (a < b ? -1 : 1));
  const between = session - operators;
  return [
    `# Profile of ${first === last ? `step ${first}` : `steps ${first} to ${last}`}`,
    "",
    "Of one step, in milliseconds.",
    "",
    ...table(
      ["", "ms", "share"],
      [
        ["step", ms(all), share(all, all)],
        ["in ONNX Runtime", ms(session), share(session, all)],
        ["waiting for data", ms(data), share(data, all)],
        ["the rest: feeds, metrics, methods, checkpoints", ms(all - session - data), share(all - session - data, all)],
      ],
    ),
    "",
    "## Passes",
    "",
    ...table(
      ["pass", "ms", "share"],
      [
        ...phases.map((phase) => {
          const own = sum(work.filter((w) => w.phase === phase).map((w) => w.own));
          return [phase, ms(own), share(own, session)];
        }),
        ["between operators", ms(between), share(between, session)],
        ["in ONNX Runtime", ms(session), share(session, session)],
      ],
    ),
    "",
    "## Modules",
    "",
    ...table(
      ["module", ...columns],
      modules.map(([name, row]) => [`\`${name}\``, ...figures(row)]),
    ),
    "",
    "## Operators",
    "",
    ...table(
      ["operator", ...columns],
      byTime(grouped(work, (w) => [w.operator])).map(([name, row]) => [name, ...figures(row)]),
    ),
    "",
  ].join("\n");
}
