import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { RecordFile } from "../../src/data/record-file.ts";
import { espalier, type Outcome, refusal, scratch, startEspalier, summary } from "./command.ts";
import { sentences, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"), { context: 128 });
beforeAll(() => vi.stubEnv("ESPALIER_CACHE", at("cache")));
afterAll(() => vi.unstubAllEnvs());

const lines = (name: string, count: number, value: (i: number) => object): string => {
  writeFileSync(at(name), `${Array.from({ length: count }, (_, i) => JSON.stringify(value(i))).join("\n")}\n`);
  return at(name);
};
const labelled = (i: number, word: string) => {
  const text = `${sentences[i % 150]} ${word} ${i}`;
  return { text, label: text.includes("tree") ? "tree" : "other" };
};
const mail = lines("mail.jsonl", 90, (i) => labelled(i, "mail"));
const news = lines("news.jsonl", 60, (i) => labelled(i, "news"));
const texts = lines("texts.jsonl", 120, (i) => ({ text: `${sentences[i % 150]} ${i}` }));
const chats = lines("chats.jsonl", 60, (i) => ({
  messages: [
    { role: "user", content: `where? ${i}` },
    { role: "assistant", content: sentences[i]! },
  ],
}));
const small = ["--model", model, "--batch-size", "8", "--max-length", "48", "--threads", "1", "--no-report"];
const train = (run: string, ...flags: string[]): Promise<Outcome> => espalier("train", ...small, "--run", at(run), ...flags);
const recorded = (run: string) => JSON.parse(readFileSync(join(at(run), "run.json"), "utf8"));
const losses = (run: string) =>
  readFileSync(join(at(run), "metrics.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss?: number })
    .flatMap(({ step, loss }) => (loss === undefined ? [] : [[step, loss]]));

describe("--streaming", () => {
  test.each([
    ["classification", mail, "accuracy", []],
    ["language-modeling", texts, "bitsPerByte", []],
    ["chat", chats, "perplexity", ["--chat-format", "chatml", "--max-length", "100"]],
  ])("%s: trains, and resumed it goes on exactly", async (task, data, metric, more) => {
    const flags = ["--data", data, "--streaming", "--held-out", "0.2", "--shuffle-window", "30", "--learning-rate", "5e-3", ...more];
    const whole = await train(`${task}-whole`, ...flags, "--steps", "12", "--checkpoint-every", "6", "--keep", "3", "--json");
    const result = summary(whole);
    expect(result).toMatchObject({ task, metric, steps: 12 });
    expect(result.finalMetric).toEqual(expect.any(Number));
    expect(whole.stdout).toContain("the held-out records were chosen by a hash of each text");
    // A run that lost its second half.
    const run = `${task}-whole`;
    const before = losses(run);
    for (const name of ["checkpoints/step-12", "adapter"]) rmSync(join(at(run), name), { recursive: true });
    expect(
      summary(await train(run, ...flags, "--steps", "12", "--checkpoint-every", "6", "--keep", "3", "--resume", "--json")),
    ).toMatchObject({
      finalMetric: result.finalMetric,
    });
    expect(losses(run)).toEqual(before);
  });

  test("holds the records of a window, not of the file", async () => {
    // 30 characters each would not show: pieces have 32 KiB.
    const data = lines("large.jsonl", 4000, (i) => ({ ...labelled(i, "x".repeat(400)), id: i }));
    const reads = vi.spyOn(RecordFile.prototype, "rows");
    const flags = ["--data", data, "--eval-data", mail, "--streaming", "--shuffle-window", "100", "--steps", "4", "--no-baseline"];
    const { code, stdout } = await train("large", ...flags);
    const pieces = reads.mock.calls.map(([{ offset }]) => offset);
    reads.mockRestore();
    expect(code).toBe(0);
    expect(stdout).toContain("4000 training and 90 held-out texts");
    // Four batches come from one pool of 128 records; the file has more than 50 pieces.
    expect(pieces.length).toBeGreaterThan(0);
    expect(pieces.length).toBeLessThan(8);
  });

  test("what does not go together is refused", async () => {
    expect(refusal(await train("no", "--data", mail, "--shuffle-window", "9"))).toContain(
      "--shuffle-window speaks of data that are read piece",
    );
    expect(refusal(await train("no", "--data", texts, "--streaming", "--packing"))).toContain("--packing fits all texts into rows at once");
    const numbers = lines("numbers.jsonl", 20, (i) => ({ text: sentences[i], label: i }));
    expect(refusal(await train("no", "--data", numbers, "--task", "regression", "--streaming"))).toContain(
      "--streaming is for chat, classification, language-modeling, and this is regression",
    );
    expect(refusal(await train("no", "--data", mail, "--streaming", "--held-out", "0.000001"))).toContain(
      "none fell into the share of 0.000001",
    );
    writeFileSync(at("nothing.jsonl"), "\n");
    expect(refusal(await train("no", "--data", at("nothing.jsonl"), "--streaming", "--task", "classification"))).toContain("is empty");
    const broken = at("broken.jsonl");
    writeFileSync(broken, `${readFileSync(mail, "utf8")}{"text": 3}\n`);
    expect(refusal(await train("no", "--data", broken, "--streaming"))).toContain("broken.jsonl line 91");
  });
});

describe("several sources", () => {
  const both = ["--data", mail, "--data", `${news}:0.25`];

  test.each([
    [[], "batches by source: mail 80.0 %, news 20.0 %"],
    [["--streaming", "--held-out", "0.2"], "draws by source: mail 80.0 %, news 20.0 %"],
  ])("%j: are mixed as their weights say, and measured one by one", async (more, note) => {
    const run = `mixed-${more.length}`;
    const outcome = await train(run, ...both, ...more, "--steps", "10", "--json");
    const { after } = summary(outcome) as { after: Record<string, number> };
    expect(outcome.stdout).toContain(note);
    for (const key of ["accuracy", "mail.accuracy", "news.accuracy", "news.loss"]) expect(after[key], key).toEqual(expect.any(Number));
    const [low, high] = [after["mail.loss"]!, after["news.loss"]!].sort((a, b) => a - b) as [number, number];
    expect(after.loss).toBeGreaterThanOrEqual(low - 1e-6);
    expect(after.loss).toBeLessThanOrEqual(high + 1e-6);
    expect(Object.keys(recorded(run).files.data)).toEqual([mail, news]);
    expect(recorded(run).options.data).toEqual([mail, { path: news, weight: 0.25 }]);
    // Another weight is another run.
    const other = ["--data", mail, "--data", `${news}:0.5`, ...more, "--steps", "10", "--resume"];
    expect(refusal(await train(run, ...other))).toContain("cannot be resumed with other data");
  });

  test("without weights each has its size; an epoch holds all of them once", async () => {
    const outcome = await train("sizes", "--data", mail, "--data", news, "--eval-data", mail, "--no-baseline", "--json");
    const { after, steps } = summary(outcome) as { after: object; steps: number };
    expect(Object.keys(after).filter((key) => key.includes("mail."))).toEqual([]);
    expect(outcome.stdout).toMatch(/batches by source: mail \d+\.\d %, news \d+\.\d %/);
    expect(steps).toBeGreaterThanOrEqual(Math.ceil(150 / 8));
    expect(steps).toBeLessThan(30); // a few batches of each length are not full
  });

  test("a configuration names them relative to it; a file whose name looks like a weight is a file", async () => {
    mkdirSync(at("project"));
    writeFileSync(at("project/odd.jsonl:2"), "");
    const config = at("project/espalier.config.json");
    writeFileSync(config, JSON.stringify({ data: ["../mail.jsonl", { path: "../news.jsonl", weight: 0.5 }], steps: 1, baseline: false }));
    expect((await train("configured", "--config", config)).code).toBe(0);
    expect(recorded("configured").options.data).toEqual([mail, { path: news, weight: 0.5 }]);
    expect(refusal(await train("no", "--data", at("project/odd.jsonl:2")))).toContain('has the extension ".jsonl:2"');
    const wrong = at("project/wrong.json");
    writeFileSync(wrong, JSON.stringify({ data: ["../mail.jsonl", { path: "../news.jsonl", weight: 0 }] }));
    expect(refusal(await train("no", "--config", wrong))).toMatch(
      /weight of a source must be a number above 0|must be a path, or a list of paths/,
    );
  });

  test("what is no mixture is refused", async () => {
    for (const weight of ["0", "-1"])
      expect(refusal(await train("no", "--data", `${mail}:${weight}`), 2)).toContain("must be a number above 0");
    expect(refusal(await train("no", "--data", mail, "--data", `${mail}:2`))).toContain("mail.jsonl is given twice");
    expect(refusal(await train("no", "--data", mail, "--data", at("m*.jsonl")))).toMatch(/mail\.jsonl is given twice, by .* and by /);
    expect(refusal(await train("no", "--data", mail, "--data", texts))).toMatch(
      /mail\.jsonl looks like data of classification and .*texts\.jsonl like data of language-modeling/,
    );
    expect(refusal(await train("no", "--data", mail, "--data", texts, "--task", "classification"))).toContain("texts.jsonl has no labels");
    expect(refusal(await train("no", "--data", chats, "--data", texts, "--chat-format", "chatml"))).toContain(
      "like data of language-modeling",
    );
    writeFileSync(at("empty.jsonl"), "");
    expect(refusal(await train("no", "--data", mail, "--data", at("empty.jsonl"), "--task", "classification"))).toContain(
      "empty.jsonl: is empty",
    );
    writeFileSync(at("copy.jsonl"), readFileSync(mail));
    expect(refusal(await train("no", "--data", mail, "--data", at("copy.jsonl")))).toContain("nothing of it is left to train on");
  });
});

test("Ctrl-C while data are prepared ends the process at once", async () => {
  const data = at("much.jsonl");
  writeFileSync(
    data,
    Array.from({ length: 400_000 }, (_, i) => `{"text":"${sentences[i % 150]} ${sentences[(i * 7) % 150]} ${i}"}`).join("\n"),
  );
  const flags = ["--data", data, "--eval-data", texts, "--task", "language-modeling", "--no-cache", "--run", at("stopped")];
  const { child, done, outcome } = startEspalier(["train", ...small, ...flags]);
  while (!outcome.stdout.includes("tokenise") && child.exitCode === null) await setTimeout(10);
  const asked = performance.now();
  child.kill("SIGINT");
  // What shells call 130.
  expect(await done).toMatchObject({ code: null, signal: "SIGINT", stderr: "" });
  expect(performance.now() - asked).toBeLessThan(1000);
  expect(existsSync(at("stopped"))).toBe(false);
});
