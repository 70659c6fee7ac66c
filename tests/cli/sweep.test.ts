import { appendFileSync, cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Segment } from "../../src/methods/index.ts";
import { espalier, refusal, scratch, startEspalier, summary } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const data = writeLabelled(at("data.jsonl"));
const base = ["sweep", "--no-config", "--model", model, "--data", data, "--max-length", "48", "--threads", "1"];
const lines = (file: string): unknown[] =>
  readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
const results = (sweep: string) => JSON.parse(readFileSync(join(sweep, "results.json"), "utf8"));

describe("espalier sweep", () => {
  test("a grid trains every combination; a trial that cannot be trained is a result; the best can be trained again", async () => {
    const sweep = at("grid");
    const outcome = await espalier(
      ...base,
      "--steps",
      "6",
      "--strategy",
      "grid",
      "--space",
      "learningRate=0.001,0.01",
      "--space",
      "rank=2,100000",
      "--sweep",
      sweep,
      "--json",
    );
    const found = summary(outcome) as { trials: number; failed: number; best: { values: { rank: number }; score: number } };
    expect(found).toMatchObject({ trials: 4, failed: 2, metric: "accuracy", best: { values: { rank: 2 } } });
    expect(outcome.stdout).toMatch(/trial +learningRate +rank +score +time/);
    const again = summary(await espalier("train", "--config", join(sweep, "best.config.ts"), "--json"));
    expect(again.finalMetric).toBe(found.best.score);
  });

  test("random draws are those of the seed; a sweep goes on where it was, and a finished one computes nothing", async () => {
    const flags = [
      ...base,
      "--steps",
      "4",
      "--strategy",
      "random",
      "--trials",
      "3",
      "--space",
      "learningRate=log:1e-4..1e-2",
      "--space",
      "batchSize=whole:4..8",
    ];
    summary(await espalier(...flags, "--sweep", at("whole"), "--json"));
    const whole = results(at("whole"));
    // As if it had been killed in the last line, with the third trial untrained.
    summary(await espalier(...flags, "--sweep", at("cut"), "--json"));
    const lines = readFileSync(join(at("cut"), "trials.jsonl"), "utf8")
      .trimEnd()
      .split("\n");
    writeFileSync(join(at("cut"), "trials.jsonl"), `${lines.slice(0, 2).join("\n")}\n`);
    appendFileSync(join(at("cut"), "trials.jsonl"), lines[2]!.slice(0, 40));
    summary(await espalier("sweep", "--resume", at("cut"), "--json"));
    const same = (found: { results: { trial: number; score: number; values: object }[] }) =>
      found.results.map(({ trial, score, values }) => ({ trial, score, values }));
    expect(same(results(at("cut")))).toEqual(same(whole));
    expect(refusal(await espalier(...flags, "--sweep", at("cut")))).toContain("holds a sweep already. Continue it with --resume");
    // The same options may be given again, others may not.
    const resume = [...flags, "--resume", "--sweep", at("cut")];
    expect(same(summary(await espalier(...resume, "--json")) as Parameters<typeof same>[0])).toEqual(same(whole));
    expect(refusal(await espalier(...resume, "--learning-rate", "0.5", "--trials", "99"))).toMatch(
      /cannot be resumed with other options, and --learning-rate, --trials differ from its own|--trials, --learning-rate differ/,
    );
    expect(refusal(await espalier("sweep", "--resume", at("cut"), "--sweep", at("whole")))).toContain(
      `--resume names the sweep ${at("cut")} and --sweep another one, ${at("whole")}.`,
    );
    expect(refusal(await espalier(...flags, "--run", at("elsewhere")))).toContain("that of a sweep, with its runs in it, is --sweep");
  });

  test("halving trains the better ones further, exactly as if they had not paused", async () => {
    const flags = [
      ...base,
      "--steps",
      "8",
      "--strategy",
      "halving",
      "--trials",
      "4",
      "--factor",
      "2",
      "--smallest",
      "0.25",
      "--space",
      "learningRate=log:1e-3..1e-2",
    ];
    summary(await espalier(...flags, "--sweep", at("halving"), "--json"));
    const found = results(at("halving"));
    expect(found.results.map(({ rung }: { rung: number }) => rung)).toEqual([2, 1, 0, 0]);
    const { trial, values, adapter } = found.best;
    const run = at("unpaused");
    summary(
      await espalier("train", ...base.slice(1), "--steps", "8", "--run", run, "--learning-rate", String(values.learningRate), "--json"),
    );
    const weights = (path: string) => readFileSync(join(path, "adapter_model.safetensors")).toString("base64");
    expect(weights(join(run, "adapter"))).toBe(weights(adapter));
    expect(existsSync(join(at("halving"), `trial-00${trial}`, "output.log"))).toBe(true);
  });

  test("pbt: the worse member goes on from the best one's weights; a sweep that was cut off ends the same", async () => {
    const flags = [
      ...base,
      "--steps",
      "8",
      "--strategy",
      "pbt",
      "--trials",
      "4",
      "--ready",
      "0.25",
      "--space",
      "learningRate=log:1e-4..1e-2",
    ];
    const outcome = await espalier(...flags, "--sweep", at("pbt"), "--json");
    const found = summary(outcome) as { trials: number; best: { trial: number; score: number; adapter: string }; schedule: Segment[] };
    expect(found).toMatchObject({ trials: 4, failed: 0 });
    expect(outcome.stdout).toContain("4 members, trained in 4 parts, that vary learningRate");
    expect(outcome.stdout).toMatch(/What it was trained with:\n {2}steps 1 to \d/);
    expect(existsSync(join(found.best.adapter, "adapter_model.safetensors"))).toBe(true);
    const { schedule } = found;
    expect(schedule.map(({ from }) => from)).toEqual([0, ...schedule.slice(0, -1).map(({ to }) => to)]);
    expect(schedule.at(-1)).toMatchObject({ to: 8, member: found.best.trial });
    // One of four copies, after each part but the last.
    const policy = lines(join(at("pbt"), "pbt_policy.jsonl")) as [string, string, number, number, object, object][];
    expect(policy.map(([, , step]) => step)).toEqual([2, 4, 6]);
    const [target, source, , , old, changed] = policy[0]!;
    const options = (member: string, part: number) =>
      JSON.parse(readFileSync(join(at("pbt"), `member-00${member}`, `part-00${part}`, "run.json"), "utf8")).options;
    expect(options(source, 0)).toMatchObject({ ...old, schedule: "constant", warmup: 0 });
    expect(options(target, 1)).toMatchObject(changed);
    const losses = (member: string, part: number) =>
      (lines(join(at("pbt"), `member-00${member}`, `part-00${part}`, "metrics.jsonl")) as { step: number; loss?: number }[]).filter(
        ({ loss }) => loss !== undefined,
      );
    expect(losses(target, 1).map(({ step }) => step)).toEqual([3, 4]);
    // The first step's loss is measured before the new rate counts.
    expect(losses(target, 1)[0]!.loss).toBe(losses(source, 1)[0]!.loss);

    cpSync(at("pbt"), at("pbt-cut"), { recursive: true });
    const trials = join(at("pbt-cut"), "trials.jsonl");
    const all = readFileSync(trials, "utf8").trimEnd().split("\n");
    writeFileSync(trials, `${all.slice(0, 14).join("\n")}\n${all[14]!.slice(0, 30)}`);
    summary(await espalier("sweep", "--resume", "--sweep", at("pbt-cut"), "--json"));
    const same = ({ results, schedule }: { results: { trial: number; score: number; values: object }[]; schedule: Segment[] }) => ({
      results: results.map(({ trial, score, values }) => ({ trial, score, values })),
      schedule,
    });
    expect(same(results(at("pbt-cut")))).toEqual(same(results(at("pbt"))));
  });

  test("workers are processes of their own and find the same", async () => {
    const flags = [...base, "--steps", "3", "--strategy", "grid", "--space", "learningRate=0.001,0.01,0.1", "--json"];
    const here = summary(await espalier(...flags, "--sweep", at("one")));
    const outcome = await startEspalier([...flags, "--workers", "2", "--sweep", at("two")]).done;
    expect((summary(outcome).best as { score: number }).score).toBe((here.best as { score: number }).score);
  });

  test.each([
    [["--space", "rank=2,4", "--data", at("nope.txt")], "nope.txt"],
    [["--space", "rank=2,4", "--task", "classification", "--data", at("nope.jsonl")], "nope.jsonl"],
    [["--space", "rank=2,4", "--eval-data", at("nope.csv")], "nope.csv"],
    [["--space", `model=${JSON.stringify(model)},${at("nope")}`], "nope: cannot be opened"],
    [["--space", "rank=2,4", "--task", "seq2seq"], "cannot be trained for seq2seq"],
    [["--space", "beta=0.1,0.2"], "--beta is an option of"],
    [["--space", "rnak=1,2"], 'there is no option "rnak"; nearest: rank'],
    [["--strategy", "pbt", "--space", "rank=2,4"], "rank cannot change there"],
    [["--space", "data=a,b"], "data is the same for all trials"],
    [["--space", "rank=log:0..1"], "begins above 0"],
    [["--space", "rank=0,4"], "rank is 0: It must be a whole number of at least 1."],
    [[], "There is nothing to search"],
  ])("%j is refused before anything is written", async (flags, message) => {
    const sweep = at("refused");
    expect(refusal(await espalier(...base, "--strategy", "grid", ...flags, "--sweep", sweep))).toContain(message);
    expect(existsSync(sweep)).toBe(false);
  });

  test.each(["random", "halving"])("%s draws no setting twice, and says when there are no more", async (strategy) => {
    const sweep = at(`all-${strategy}`);
    const flags = ["--steps", "2", "--strategy", strategy, "--space", "rank=2,4", "--sweep", sweep, "--json"];
    const outcome = await espalier(...base, ...flags);
    const { trials, results } = summary(outcome) as { trials: number; results: { values: { rank: number } }[] };
    expect(trials).toBe(2);
    expect(results.map(({ values }) => values.rank).sort()).toEqual([2, 4]);
    expect(outcome.stdout).toMatch(/^2 trials of rank.*\. 2 settings are all there are\.$/m);
  });

  test("where every trial fails, the first reason is told", async () => {
    expect(refusal(await espalier(...base, "--strategy", "grid", "--space", "rank=100000", "--sweep", at("failed")))).toContain(
      "Every trial failed; the first with: ",
    );
  });
});
