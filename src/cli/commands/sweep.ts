import { join } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { writeFileAtomically, writeJson } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Segment } from "../../methods/search/lineage.ts";
import type { Values } from "../../train/search/space.ts";
import { configSource } from "../config/config-source.ts";
import { addRunOptions, givenOptions } from "../config/flags.ts";
import { type GivenFlags, resolveRun } from "../config/resolve-run.ts";
import { flagName } from "../config/run-option.ts";
import { type RunConfig, recordedRunOptions } from "../config/run-options.ts";
import { integer, number } from "../options.ts";
import { Interrupted } from "../signals.ts";
import { checkPlan } from "../sweep/check-plan.ts";
import { type PbtSweep, partsOf, runPbt } from "../sweep/run-pbt.ts";
import { rungsOf, runSweep, type SweepContext, spaceOf, trialFlags, trialsOf } from "../sweep/run-sweep.ts";
import { holdsSweep, readPlan, type SweepPlan, type SweepResult, writePlan } from "../sweep/sweep-record.ts";
import { threadsPerWorker, trialExecutor } from "../sweep/worker-pool.ts";
import { formatDuration, Terminal } from "../terminal.ts";

interface SweepFlags {
  space?: Record<string, string>;
  strategy: SweepPlan["strategy"];
  trials: number;
  points: number;
  factor: number;
  smallest: number;
  ready: number;
  metric?: string;
  workers: number;
  sweep: string;
  resume?: string | true;
}

const ownKeys = ["space", "strategy", "trials", "points", "factor", "smallest", "ready", "metric", "workers", "sweep", "resume"] as const;

export function sweepCommand(): Command {
  const command = new Command("sweep").description(
    "Search the best options of a run: a grid, random draws, successive halving, or population-based training.",
  );
  command
    .option(
      "--space <name=values>",
      "what an option may be (several times): rank=4,8,16  learningRate=log:1e-4..1e-2  dropout=0..0.2  epochs=whole:1..4",
      addDimension,
    )
    .addOption(new Option("--strategy <name>", "how the space is searched").choices(["grid", "random", "halving", "pbt"]).default("random"))
    .option("--trials <n>", "settings that random and halving draw; members of pbt", integer(1), 16)
    .option("--points <n>", "values of a range in a grid", integer(1), 3)
    .option("--factor <n>", "halving: of so many trials one is trained further", integer(2), 3)
    .option("--smallest <share>", "halving: share of the steps after which trials are compared first", number(0.001, 1), 0.1)
    .option("--ready <share>", "pbt: share of the steps after which the worse members copy the better ones", number(0.001, 0.5), 0.1)
    .option("--metric <name>", "what is compared (default: the task's own)")
    .option("--workers <n>", "trials at once, each in a process of its own", integer(1), 1)
    .option("--sweep <directory>", "directory of the sweep", "runs/sweep")
    .option("--resume [directory]", "continue the sweep in that directory; without one, that of --sweep")
    .option("--config <file>", "options of the runs (default: espalier.config.ts, if there is one)")
    .option("--no-config", "read no configuration");
  return addRunOptions(command, { headings: true, without: "defaults" }).action(async (flags: SweepFlags, self: Command) => {
    const terminal = new Terminal();
    const given = givenOptions<Record<string, unknown>>(self);
    if (given.run !== undefined)
      throw new EspalierError("bad-option", "--run names the directory of one run; that of a sweep, with its runs in it, is --sweep.");
    if (typeof flags.resume === "string") {
      if (given.sweep !== undefined && given.sweep !== flags.resume)
        throw new EspalierError(
          "bad-option",
          `--resume names the sweep ${flags.resume} and --sweep another one, ${given.sweep}. Leave --sweep out.`,
        );
      flags.sweep = flags.resume;
    }
    const plan = flags.resume ? readPlan(flags.sweep) : await newPlan(flags, self);
    if (flags.resume) refuseOthers(plan, given, flags.sweep);
    const summary = await sweep(plan, flags, terminal);
    if (self.opts<{ json?: boolean }>().json) terminal.json(summary);
  });
}

function addDimension(text: string, given: Record<string, string> = {}): Record<string, string> {
  const [, name, values] = /^\s*([A-Za-z][\w.-]*)\s*=\s*(.+)$/s.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError("It must be name=values, e.g. rank=4,8,16.");
  // As the flag is written, too: learning-rate is learningRate.
  return { ...given, [name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())]: values! };
}

async function newPlan(flags: SweepFlags, command: Command): Promise<SweepPlan> {
  if (holdsSweep(flags.sweep))
    throw new EspalierError("run-exists", `${flags.sweep} holds a sweep already. Continue it with --resume, or give another --sweep.`);
  if (!flags.space)
    throw new EspalierError("bad-space", "There is nothing to search: name what may vary with --space, e.g. --space rank=4,8,16.");
  const { run: _, ...given } = givenOptions<GivenFlags & Record<string, unknown>>(command);
  for (const key of ownKeys) delete given[key];
  const resolved = await resolveRun(given);
  const options = recordedRunOptions(resolved.flags);
  const { space, strategy, trials, points, factor, smallest, ready, metric } = flags;
  // The population finds a schedule of its own, which a schedule of the run would only hide.
  if (strategy === "pbt")
    Object.assign(options, { schedule: "constant", warmup: 0 }, scheduleOf(resolved.config?.config), scheduleOf(given));
  const plan = { options, space, strategy, trials, points, factor, smallest, ready, ...(metric && { metric }), seed: options.seed };
  // Whatever is wrong with it is said before anything is written.
  await checkPlan(plan, flags.sweep);
  writePlan(flags.sweep, plan);
  return plan;
}

/** A sweep goes on as it was begun: what is given beside --resume, and is not so in its plan, would be passed over in silence. */
function refuseOthers(plan: SweepPlan, given: Readonly<Record<string, unknown>>, directory: string): void {
  const planned: Readonly<Record<string, unknown>> = { ...plan.options, ...plan };
  const free = ["resume", "sweep", "workers", "config", "json"];
  const others = Object.keys(given).filter((key) => !free.includes(key) && JSON.stringify(given[key]) !== JSON.stringify(planned[key]));
  if (others.length === 0) return;
  throw new EspalierError(
    "other-options",
    `${directory} cannot be resumed with other options, and ${others.map(flagName).join(", ")} ${others.length === 1 ? "differs" : "differ"} from its own. Leave out what was given then, or start a new sweep with another --sweep.`,
  );
}

/** As far as it was given. */
const scheduleOf = ({ schedule, warmup }: RunConfig = {}): RunConfig => ({
  ...(schedule !== undefined && { schedule }),
  ...(warmup !== undefined && { warmup }),
});

async function sweep(plan: SweepPlan, { sweep: directory, workers }: SweepFlags, terminal: Terminal) {
  const names = Object.keys(spaceOf(plan));
  const isPbt = plan.strategy === "pbt";
  const [count, rungs] = [trialsOf(plan).length, rungsOf(plan)];
  const total = isPbt ? count * partsOf(plan) : count;
  const all = (plan.strategy === "random" || plan.strategy === "halving") && count < plan.trials;
  terminal.line(
    `${count} ${isPbt ? `members, trained in ${partsOf(plan)} parts, that vary` : count === 1 ? "trial of" : "trials of"} ${names.join(", ")}${rungs.length > 1 ? `, compared after ${rungs.map((share) => `${+(100 * share).toFixed(1)} %`).join(", ")} of the steps` : ""}.${all ? ` ${count === 1 ? "1 setting is all there is" : `${count} settings are all there are`}.` : ""}`,
  );
  const executor = trialExecutor(workers);
  const bar = terminal.progress("sweep", total);
  let done = 0;
  try {
    const context: SweepContext = {
      directory,
      executor,
      threads: workers > 1 ? threadsPerWorker(workers) : undefined,
      onResult(result) {
        bar.update(++done, oneLine(result), Math.max(total, done));
      },
    };
    const { results, schedule }: PbtSweep = isPbt ? await runPbt(plan, context) : { results: await runSweep(plan, context) };
    bar.stop();
    terminal.line();
    for (const line of resultTable(results, names, rungs)) terminal.line(line);
    return conclude(plan, directory, results, terminal, schedule);
  } catch (error) {
    bar.stop();
    if (error instanceof Interrupted) terminal.line(`Stopped. Continue with espalier sweep --resume ${directory}.`);
    throw error;
  } finally {
    terminal.stopProgress();
    await executor.close();
  }
}

/** Writes what was best in a form that `espalier train` takes. */
function conclude(plan: SweepPlan, directory: string, results: readonly SweepResult[], terminal: Terminal, schedule?: readonly Segment[]) {
  const [best] = results;
  const failed = results.filter(({ score }) => score === null).length;
  if (!best || best.score === null)
    throw new EspalierError(
      "sweep-failed",
      `Every trial failed; the first with: ${best?.error ?? "nothing"} What they said is in ${directory}; give another --sweep for the next attempt.`,
    );
  const { baseline: _, report: __, run: ___, ...flags } = trialFlags(directory, plan, best.trial, best.values, undefined);
  const config = join(directory, "best.config.ts");
  writeFileAtomically(config, (append) =>
    append(new TextEncoder().encode(configSource({ ...flags, run: join(directory, "best") } as RunConfig))),
  );
  const summary = {
    trials: results.length,
    failed,
    metric: plan.metric ?? best.summary!.metric,
    best: { trial: best.trial, score: best.score, values: best.values, adapter: best.summary!.adapter },
    results: results.map(({ trial, rung, score, values, seconds, error }) => ({
      trial,
      rung,
      score,
      values,
      seconds,
      ...(error && { error }),
    })),
    ...(schedule && { schedule }),
    config,
  };
  writeJson(join(directory, "results.json"), summary);
  terminal.line();
  terminal.line(`Best: trial ${best.trial}, ${summary.metric} ${best.score.toFixed(4)}. Its adapter: ${summary.best.adapter}`);
  if (schedule) {
    terminal.line("What it was trained with:");
    for (const { from, to, values } of schedule) terminal.line(`  steps ${from + 1} to ${to}: ${valuesLine(values)}`);
    terminal.line(`Its last options are in ${config}; a run with these alone is another one.`);
  } else terminal.line(`Train it again, or longer: espalier train --config ${config}`);
  terminal.line("The best of many on the same held-out data looks better than it is: judge it on data that chose nothing.");
  return summary;
}

const oneLine = ({ trial, values, score, error }: SweepResult): string =>
  `trial ${trial}: ${valuesLine(values)}  ${score === null ? `failed: ${error}` : `→ ${score.toFixed(4)}`}`;

const valuesLine = (values: Values): string =>
  Object.entries(values)
    .map(([name, value]) => `${name} ${short(value)}`)
    .join("  ");

const short = (value: unknown): string => (typeof value === "number" ? String(+value.toPrecision(4)) : String(value));

function resultTable(results: readonly SweepResult[], names: readonly string[], rungs: readonly number[]): string[] {
  const rows = [
    ["trial", ...names, "score", ...(rungs.length > 1 ? ["trained"] : []), "time"],
    ...results.map(({ trial, rung, score, values, seconds }) => [
      String(trial),
      ...names.map((name) => short(values[name])),
      score === null ? "failed" : score.toFixed(4),
      ...(rungs.length > 1 ? [`${+(100 * rungs[rung]!).toFixed(1)} %`] : []),
      formatDuration(seconds),
    ]),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) => row.map((cell, column) => cell.padStart(widths[column]!)).join("  "));
}
