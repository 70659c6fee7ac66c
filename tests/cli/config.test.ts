import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { configSource } from "../../src/cli/config/config-source.ts";
import { loadConfig } from "../../src/cli/config/load-config.ts";
import { runOptions } from "../../src/cli/config/run-options.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
writeLabelled(join(directory, "data.jsonl"));
const here = process.cwd();
let place = 0;

/** Every test has a directory of its own, as a user's project. */
beforeEach(() => {
  const project = join(directory, `project-${place++}`);
  mkdirSync(project);
  process.chdir(project);
});
beforeAll(() => process.chdir(directory));
afterAll(() => process.chdir(here));

const config = (source: string, name = "espalier.config.ts") => writeFileSync(name, source);
const small = `model: "../model", data: "../data.jsonl", steps: 2, maxLength: 48, run: "run"`;
const recorded = (run: string) => JSON.parse(readFileSync(join(run, "run.json"), "utf8"));

describe("espalier.config.ts", () => {
  test("holds the options of the run, in TypeScript; a flag wins over it", async () => {
    config(`import { defineRun } from "espalier/config";
const rank: number = 4;
export default defineRun({ ${small}, rank, learningRate: 2e-3 });`);
    const outcome = await espalier("train", "--learning-rate", "0.01", "--json");
    expect(summary(outcome)).toMatchObject({ task: "classification", steps: 2 });
    expect(outcome.stdout).toContain("Options from espalier.config.ts.");
    expect(recorded("run").options).toMatchObject({
      rank: 4,
      learningRate: 0.01,
      batchSize: 16,
      data: join(directory, "data.jsonl"),
      model,
    });
  });

  test("its paths are relative to it, wherever the command runs; a model's name is none", async () => {
    mkdirSync("deep");
    config(`export default { ${small.replaceAll("../", "../../")}, model: "org/name" };`, "deep/other.mjs");
    const loaded = await loadConfig("deep/other.mjs");
    expect(loaded!.config).toMatchObject({
      data: join(directory, "data.jsonl"),
      run: join(process.cwd(), "deep", "run"),
      model: "org/name",
    });
  });

  test("--no-config leaves it out, and JSON will do", async () => {
    config(`{ ${small.replaceAll(/(\w+):/g, '"$1":')} }`, "espalier.config.json");
    expect((await loadConfig())!.config.steps).toBe(2);
    expect(refusal(await espalier("train", "--no-config"))).toContain(
      "There is no training data: give --data <file>, or data in an espalier.config.ts.",
    );
  });

  test("every wrong key is named at once, with the file", async () => {
    config(`export default { ${small}, rnak: 4, epochs: "3", schedule: "step", targets: "q_proj" };`);
    const message = refusal(await espalier("train"));
    expect(message).toContain("espalier.config.ts: ");
    expect(message).toContain('epochs is "3": It must be a number of at least 0.001.');
    expect(message).toContain('schedule is "step": It must be one of constant, linear, cosine');
    expect(message).toContain('targets is "q_proj": It must be a list of names.');
    expect(message).toContain('there is no option "rnak"; nearest: rank');
  });

  test.each([
    ["export default [1, 2];", /must export the run's options by default.*It exports \[1,2\]/],
    ["const a = ;", /espalier\.config\.ts cannot be read: /],
    ["throw new Error('on purpose');", /cannot be read: on purpose/],
    ['import "not-there"; export default {};', /cannot be read: .*not-there/],
    ["export const run = {};", /must export the run's options by default/],
  ])("%s", async (source, expected) => {
    config(source);
    expect(refusal(await espalier("train"))).toMatch(expected);
  });

  test("a file that is not there", async () => {
    expect(refusal(await espalier("train", "--config", "nothing.ts"))).toContain("there is no such file");
  });
});

describe("--resume <run>", () => {
  test("takes the options from the run; what is given again must agree", async () => {
    expect(
      (
        await espalier(
          "train",
          "--model",
          model,
          "--data",
          "../data.jsonl",
          "--run",
          "run",
          "--max-length",
          "48",
          "--steps",
          "3",
          "--rank",
          "4",
        )
      ).code,
    ).toBe(0);
    expect(summary(await espalier("train", "--resume", "run", "--json"))).toMatchObject({ steps: 3 });
    expect(refusal(await espalier("train", "--resume", "run", "--steps", "4"))).toContain("--steps was 3 and is now 4");
    config("export default { rank: 8 };");
    expect(refusal(await espalier("train", "--resume", "run"))).toContain("--rank was 4 and is now 8");
    expect(refusal(await espalier("train", "--resume", "run", "--run", "other"))).toContain(
      "--resume names the run run and --run another one, other.",
    );
  });

  test("a record that was damaged is refused by the key", async () => {
    mkdirSync("run");
    writeFileSync(
      join("run", "run.json"),
      JSON.stringify({ options: { data: "x", rank: "many" }, files: {}, sha256: { data: "", model: "" } }),
    );
    expect(refusal(await espalier("train", "--resume", "run"))).toContain("run.json is damaged: options.rank: It must be a whole number");
  });
});

describe("init", () => {
  test("writes a configuration that shows every option and trains as it stands", async () => {
    expect(
      (await espalier("init", "--yes", "--data", "../data.jsonl", "--model", "../model", "--run", "run", "--epochs", "0.1")).code,
    ).toBe(0);
    const source = readFileSync("espalier.config.ts", "utf8");
    for (const key of Object.keys(runOptions)) expect(source).toMatch(new RegExp(`^ {2}(// )?${key}: `, "m"));
    expect(summary(await espalier("train", "--max-length", "48", "--json")).adapter).toBe(join(process.cwd(), "run", "adapter"));
  });

  test("leaves a configuration that is there alone, and asks nobody who cannot answer", async () => {
    config("export default {};");
    expect(refusal(await espalier("init", "--yes"))).toContain("espalier.config.ts is there already");
    expect((await espalier("init", "--yes", "--replace")).code).toBe(0);
    expect(refusal(await espalier("init", "--replace"))).toContain("Give --yes and the options");
  });

  test("texts of any kind come back as they were", async () => {
    const template = 'a "b" `c` \\ {text}\n\u2028';
    config(configSource({ data: "d.jsonl", template, targets: ["q_proj", "v_proj"], methodOptions: { a: [1, { b: "x" }] } }));
    expect((await loadConfig())!.config).toMatchObject({ template, targets: ["q_proj", "v_proj"], methodOptions: { a: [1, { b: "x" }] } });
  });
});
