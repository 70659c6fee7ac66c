import { basename, join } from "node:path";
import { writeFileAtomically } from "../../checkpoints/index.ts";
import { defaultOf, type RunOption } from "../config/run-option.ts";
import { type RunOptions, runOptionGroups } from "../config/run-options.ts";
import { formatBytes, formatCount, formatDuration, formatPercent } from "../terminal.ts";
import type { TrainSummary } from "../training/summary.ts";
import { lineChart, smoothed } from "./charts.ts";
import { type RunMetrics, readMetrics } from "./metrics-file.ts";

/** What a model makes of one input, before and after training. */
export interface SamplePair {
  input: string;
  /** What the data say. */
  expected?: string;
  before: string;
  after: string;
}

export interface ReportContent {
  options: RunOptions;
  summary: TrainSummary;
  environment: Readonly<Record<string, unknown>>;
  sha256: Readonly<Record<string, string | undefined>>;
  samples: readonly SamplePair[];
}

/** Writes `report.md` and `loss.svg` into a run that has ended. Returns the report's path. */
export async function writeReport(run: string, content: ReportContent): Promise<string> {
  const metrics = readMetrics(run);
  const chart = await lossChart(metrics);
  write(join(run, "loss.svg"), chart);
  const file = join(run, "report.md");
  write(file, reportText(basename(run), content, metrics));
  return file;
}

const write = (file: string, text: string) => writeFileAtomically(file, (append) => append(new TextEncoder().encode(text)));

function lossChart({ steps, evaluations }: RunMetrics): Promise<string> {
  const losses = steps.map(({ step, loss }) => [step, loss] as const);
  const heldOut = evaluations.flatMap(({ step, metrics }) => (metrics.loss === undefined ? [] : [[step, metrics.loss] as const]));
  return lineChart({
    title: "Loss",
    x: "step",
    y: "loss",
    series: [
      { name: "training, each step", points: losses, as: "faint" },
      { name: "training, smoothed", points: smoothed(losses, Math.max(2, losses.length / 40)) },
      { name: "held-out", points: heldOut, as: "points" },
    ],
  });
}

function reportText(name: string, { options, summary, environment, sha256, samples }: ReportContent, metrics: RunMetrics): string {
  const { before, after, metric } = summary;
  const figures = table(
    ["held-out", "before", "after"],
    Object.keys(after).map((key) => [key === metric ? `**${key}**` : key, figure(before?.[key]), figure(after[key])]),
  );
  const facts = table(
    ["", ""],
    [
      ["task", summary.task],
      ["steps", formatCount(summary.steps)],
      [
        "trained parameters",
        `${formatCount(summary.trainableParameters)} of ${formatCount(summary.totalParameters)} (${formatPercent(summary.trainableParameters / summary.totalParameters, 2)})`,
      ],
      ["speed", `${formatCount(summary.tokensPerSecond)} tokens/s while training`],
      ["time", `${formatDuration(summary.seconds)} in all`],
      ["peak memory", formatBytes(summary.peakMemoryMB * 1e6)],
      ["what was trained", `\`${summary.adapter}\``],
      ...(summary.majorityAccuracy === undefined ? [] : [["always the commonest label", `accuracy ${figure(summary.majorityAccuracy)}`]]),
    ],
  );
  return [
    `# ${name}`,
    "",
    `${metric} on held-out data: **${before ? `${figure(summary.baseMetric)} → ` : ""}${figure(summary.finalMetric)}**`,
    "",
    figures,
    "",
    `![Loss by step](loss.svg)`,
    "",
    ...curve(metrics),
    facts,
    "",
    ...sampleSection(samples),
    "## Options",
    "",
    ...optionSection(options),
    "## Data, base and machine",
    "",
    table(
      ["", ""],
      [
        ...Object.entries(sha256).flatMap(([what, hash]) => (hash === undefined ? [] : [[`SHA-256 of ${what}`, `\`${hash}\``]])),
        ...Object.entries(environment).map(([what, value]) => [what, String(value)]),
      ],
    ),
    "",
  ].join("\n");
}

/** Held-out figures on the way, where there are more than before and after. */
function curve({ evaluations }: RunMetrics): string[] {
  if (evaluations.length <= 2) return [];
  const keys = Object.keys(evaluations.at(-1)!.metrics);
  return [
    table(
      ["step", ...keys],
      evaluations.map(({ step, metrics }) => [String(step), ...keys.map((key) => figure(metrics[key]))]),
    ),
    "",
  ];
}

function sampleSection(samples: readonly SamplePair[]): string[] {
  if (samples.length === 0) return [];
  return [
    "## Samples",
    "",
    ...samples.flatMap(({ input, expected, before, after }) => [
      quoted("input", input),
      ...(expected === undefined ? [] : [quoted("expected", expected)]),
      quoted("before", before),
      quoted("after", after),
      "---",
      "",
    ]),
  ];
}

/** As a block of code, whose fence is longer than any in the text. */
function quoted(label: string, text: string): string {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length + 1)));
  return `${label}\n\n${fence}text\n${text}\n${fence}\n`;
}

/** The options that are not as they would be by default, by their groups. */
function optionSection(options: RunOptions): string[] {
  const chosen = runOptionGroups.flatMap(([heading, group]) =>
    Object.entries(group as Readonly<Record<string, RunOption>>).flatMap(([key, { schema, help }]) => {
      const value = options[key as keyof RunOptions];
      if (value === undefined || key === "json" || JSON.stringify(value) === JSON.stringify(defaultOf(schema))) return [];
      return [[heading.replace(":", ""), `\`${key}\``, `\`${JSON.stringify(value)}\``, help.replace(/[<*]/g, "\\$&")]];
    }),
  );
  if (chosen.length === 0) return ["All options had their defaults.", ""];
  return ["Those that are not the defaults; `run.json` has all.", "", table(["", "option", "value", ""], chosen), ""];
}

const figure = (value: number | null | undefined): string => (typeof value === "number" && Number.isFinite(value) ? value.toFixed(4) : "–");

/** A table in Markdown. What stands in a cell must not end it. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|").replace(/\s*\n\s*/g, " ")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
