import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { lineChart, smoothed } from "../../src/cli/report/charts.ts";
import { espalier, scratch, startEspalier, summary } from "./command.ts";
import { writeLabelled, writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const train = ["train", "--no-config", "--model", model, "--threads", "1", "--steps", "6", "--max-length", "48"];

test("a run ends with a report: metrics, curve, options, hashes, and what the model answers before and after", async () => {
  const run = at("run");
  const data = writeLabelled(at("data.jsonl"));
  const found = summary(
    await espalier(...train, "--data", data, "--run", run, "--rank", "4", "--evaluate-every", "2", "--tensorboard", "--json"),
  );
  expect(found.report).toBe(join(run, "report.md"));
  const report = readFileSync(join(run, "report.md"), "utf8");
  expect(report).toMatch(/^# run\n\naccuracy on held-out data: \*\*0\.\d{4} → 0\.\d{4}\*\*\n/);
  expect(report).toContain(`| **accuracy** | ${(found.baseMetric as number).toFixed(4)} | ${(found.finalMetric as number).toFixed(4)} |`);
  expect(report).toMatch(/\| step \| .*\n\| --- .*\n\| 0 \|.*\n\| 2 \|.*\n\| 4 \|.*\n\| 6 \|/);
  expect(report).toContain("| Method | `rank` | `4` | LoRA rank |");
  expect(report).not.toContain("`batchSize`");
  expect(report).toMatch(/\| SHA-256 of model \| `[0-9a-f]{64}` \|/);
  expect(report).toMatch(/input\n\n```text\n[^`]+\n```\n\nexpected\n\n```text\n(tree|other)\n```\n\nbefore\n\n```text\n(tree|other) /);
  const svg = readFileSync(join(run, "loss.svg"), "utf8");
  expect(svg).toMatch(/^<svg /);
  for (const text of ["training, smoothed", "held-out", "step"]) expect(svg).toContain(`>${text}</text>`);
});

test("language models go on with held-out text; --no-report writes none, --no-baseline measures less", async () => {
  const data = writeText(at("text.txt"));
  summary(await espalier(...train, "--data", data, "--run", at("text"), "--json"));
  expect(readFileSync(join(at("text"), "report.md"), "utf8")).toMatch(/## Samples\n\ninput\n\n```text\n/);
  const bare = summary(await espalier(...train, "--data", data, "--run", at("bare"), "--no-report", "--no-baseline", "--json"));
  expect(bare).not.toHaveProperty("report");
  expect(bare).not.toHaveProperty("baseMetric");
  expect(() => readFileSync(join(at("bare"), "report.md"))).toThrow();
});

test("in a pipe there are plain lines, no bar", async () => {
  const { stdout } = await startEspalier([...train, "--data", writeText(at("piped.txt")), "--run", at("piped")]).done;
  expect(stdout).toContain("train 0/6  compiling the step\n");
  expect(stdout).toMatch(/train 6\/6 {2}loss \d/);
  expect(stdout).not.toContain("\u001b");
});

test("a chart leaves out what is no number and thins what is too much", async () => {
  const points = Array.from({ length: 50_000 }, (_, i) => [i + 1, i === 7 ? Number.NaN : 1 / (i + 1)] as const);
  const svg = await lineChart({ title: "a < b", x: "n", y: "y", series: [{ name: "s", points }], logarithmic: ["x", "y"] });
  expect(svg).toContain("a &lt; b");
  expect(svg.length).toBeLessThan(60_000);
  expect(svg).not.toContain("NaN");
});

test("smoothing begins at the first value and passes over gaps", () => {
  expect(
    smoothed(
      [
        [1, 4],
        [2, Number.NaN],
        [3, 2],
      ],
      1,
    ),
  ).toEqual([
    [1, 4],
    [3, expect.closeTo((0.5 * 0.5 * 4 + 0.5 * 2) / 0.75, 12)],
  ]);
});
