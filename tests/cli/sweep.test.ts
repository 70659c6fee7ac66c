import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { espalier, refusal, scratch, startEspalier, summary } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const data = writeLabelled(at("data.jsonl"));
const base = ["sweep", "--no-config", "--model", model, "--data", data, "--max-length", "48", "--threads", "1"];
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
    summary(await espalier("sweep", "--resume", "--sweep", at("cut"), "--json"));
    const same = (found: { results: { trial: number; score: number; values: object }[] }) =>
      found.results.map(({ trial, score, values }) => ({ trial, score, values }));
    expect(same(results(at("cut")))).toEqual(same(whole));
    expect(refusal(await espalier(...flags, "--sweep", at("cut")))).toContain("holds a sweep already. Continue it with --resume");
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

  test("workers are processes of their own and find the same", async () => {
    const flags = [...base, "--steps", "3", "--strategy", "grid", "--space", "learningRate=0.001,0.01,0.1", "--json"];
    const here = summary(await espalier(...flags, "--sweep", at("one")));
    const outcome = await startEspalier([...flags, "--workers", "2", "--sweep", at("two")]).done;
    expect((summary(outcome).best as { score: number }).score).toBe((here.best as { score: number }).score);
  });

  test.each([
    [["--space", "rnak=1,2"], 'there is no option "rnak"; nearest: rank'],
    [["--space", "data=a,b"], "data is the same for all trials"],
    [["--space", "rank=log:0..1"], "begins above 0"],
    [["--space", "rank=0,4"], "rank is 0: It must be a whole number of at least 1."],
    [[], "There is nothing to search"],
  ])("%j is refused before anything is written", async (flags, message) => {
    const sweep = at("refused");
    expect(refusal(await espalier(...base, "--strategy", "grid", ...flags, "--sweep", sweep))).toContain(message);
    expect(existsSync(sweep)).toBe(false);
  });

  test("where every trial fails, the first reason is told", async () => {
    expect(refusal(await espalier(...base, "--strategy", "grid", "--space", "rank=100000", "--sweep", at("failed")))).toContain(
      "Every trial failed; the first with: ",
    );
  });
});
