import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { onnx } from "../onnx-proto.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
const flags = ["--model", model, "--batch-size", "2", "--max-length", "16"];

test("inspect tells size, trainable share, memory and step time, and trains nothing", async () => {
  const outcome = await espalier("inspect", ...flags, "--json");
  const result = summary(outcome);
  expect(result).toMatchObject({ model, trainableParameters: 2 * 8 * (64 + 48 + 48 + 64 + 3 * 80) });
  for (const key of ["totalParameters", "gflopPerStep", "estimatedStepSeconds"]) expect(result[key], key).toBeGreaterThan(0);
  expect(result.estimatedMemoryMB).toEqual(expect.any(Number));
  expect(outcome.stdout).toMatch(/2 layers of width 32, vocabulary 300, context 64/);
  expect(outcome.stdout).toMatch(/estimated memory .*: weights .* \(mapped\), trained state .*, intermediate values /);
  const whole = summary(await espalier("inspect", ...flags, "--method", "none", "--json"));
  expect(whole.trainableParameters).toBe(whole.totalParameters);
});

test("inspect --graph writes the step in standard ONNX, and its nodes carry module paths", async () => {
  const file = join(directory, "step.onnx");
  expect(summary(await espalier("inspect", ...flags, "--targets", "q_proj,v_proj", "--graph", file, "--json"))).toMatchObject({
    graph: file,
  });
  const { graph } = onnx.ModelProto.decode(readFileSync(file));
  const nodes = graph!.node!;
  expect(nodes.every((n) => !n.domain)).toBe(true);
  const names = nodes.map((n) => n.name ?? "");
  for (const path of ["model.layers.0.self_attn.q_proj.lora_A", "model.layers.1.mlp.down_proj", "model.norm"])
    expect(
      names.some((name) => name.includes(path)),
      path,
    ).toBe(true);
  expect(new Set(names).size).toBe(names.length);
  // Every value is made before it is read, and only once.
  const made = new Set([...graph!.input!, ...graph!.initializer!].map((v) => v.name!));
  for (const n of nodes) {
    for (const input of n.input!) if (input) expect(made, `${n.name} reads ${input}`).toContain(input);
    for (const output of n.output!) {
      expect(made).not.toContain(output);
      if (output) made.add(output);
    }
  }
  for (const output of graph!.output!) expect(made).toContain(output.name);
});

test("a graph that cannot be written is refused with its name", async () => {
  const file = join(directory, "no", "step.onnx");
  expect(refusal(await espalier("inspect", ...flags, "--graph", file))).toContain(`${file} cannot be written: ENOENT`);
});

test("methods lists the catalogue; with a slug it shows card and options", async () => {
  const list = summary(await espalier("methods", "--json"));
  expect(list.methods).toContainEqual(expect.objectContaining({ slug: "lora", family: "adapters" }));
  const outcome = await espalier("methods", "lora", "--json");
  expect(summary(outcome)).toMatchObject({ slug: "lora", options: { rank: { default: 8 }, targets: { default: ["q_proj", "v_proj"] } } });
  expect(outcome.stdout).toContain('"LoRA: Low-Rank Adaptation of Large Language Models" (2021)');
  expect(refusal(await espalier("methods", "lroa"))).toBe('espalier: There is no method "lroa". Nearest: lora.\n');
});

test.each(["train", "generate", "eval", "classify", "merge", "inspect", "methods"])("%s --help describes every option", async (command) => {
  const { code, stdout, stderr } = await espalier(command, "--help");
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toMatch(new RegExp(`^Usage: espalier ${command} `));
  const options = stdout
    .slice(stdout.indexOf("Options:"))
    .split("\n")
    .filter((line) => /^ {2}-/.test(line));
  expect(options.length).toBeGreaterThan(1);
  for (const line of options) expect(line).toMatch(/^ {2}(-h, )?--[a-z-]+( [<[][a-z]+[>\]])?( {2,}\S.*|)$/);
});

test("--help lists the commands, --version is that of the package, and no command at all shows the help as wrong usage", async () => {
  const { code, stdout } = await espalier("--help");
  expect(code).toBe(0);
  for (const command of ["train", "generate", "eval", "classify", "merge", "inspect", "methods"]) expect(stdout).toContain(`  ${command} `);
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  expect(await espalier("--version")).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  expect(await espalier()).toMatchObject({ code: 2, stderr: expect.stringContaining("Usage: espalier ") });
});
