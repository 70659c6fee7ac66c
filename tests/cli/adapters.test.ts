import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { writePeftAdapter } from "../../src/checkpoints/index.ts";
import { floats } from "../../src/nn/index.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeText, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const text = writeText(at("text.txt"));
const flags = ["--model", model, "--data", text, "--steps", "12", "--batch-size", "8", "--max-length", "32", "--threads", "1"];
const config = (adapter: string) => JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8")) as Record<string, unknown>;

describe.each([
  ["ia3", [], { peft_type: "IA3", feedforward_modules: ["down_proj"] }],
  [
    "prompt-tuning",
    ["--method-options", "tokens=4", "--method-options", "initText=the old wall"],
    { peft_type: "PROMPT_TUNING", num_virtual_tokens: 4 },
  ],
  [
    "p-tuning",
    ["--method-options", '{"tokens": 4, "encoder": "lstm", "hidden": 8}'],
    { peft_type: "P_TUNING", encoder_reparameterization_type: "LSTM" },
  ],
  ["prefix-tuning", ["--method-options", "tokens=4"], { peft_type: "PREFIX_TUNING", num_attention_heads: 2, token_dim: 16 }],
  ["lora", ["--rank", "2", "--method-options", "decomposed=true"], { peft_type: "LORA", use_dora: true, r: 2 }],
] as [string, string[], object][])("--method %s", (method, options, saved) => {
  const run = at(method);

  test("is trained, saved in PEFT's format, and used", async () => {
    const result = summary(
      await espalier("train", ...flags, "--method", method, ...options, "--learning-rate", "2e-2", "--run", run, "--json"),
    );
    expect(result.finalMetric).toBeLessThan(result.baseMetric as number);
    expect(config(result.adapter as string)).toMatchObject({ ...saved, task_type: "CAUSAL_LM", base_model_name_or_path: model });
    const measured = summary(await espalier("eval", "--adapter", result.adapter as string, "--data", text, "--max-length", "32", "--json"));
    expect(measured.loss).toBeGreaterThan(0);
    const { code, stdout } = await espalier("generate", "--adapter", result.adapter as string, "--prompt", "the", "--max-new-tokens", "5");
    expect(code).toBe(0);
    expect(stdout.length).toBeGreaterThan(3);
  });

  test("is merged where that is possible, and what that changes is stated", async () => {
    const outcome = await espalier(
      "merge",
      "--adapter",
      join(run, "adapter"),
      "--output",
      at(`${method}-merged`),
      "--dtype",
      "bf16",
      "--json",
    );
    if (!["lora", "ia3"].includes(method)) {
      expect(refusal(outcome)).toMatch(/virtual tokens .* No weight can take them in/);
      return;
    }
    const { logitChange } = summary(outcome) as { logitChange: { byMerging: number; bySaving: number } };
    expect(logitChange.byMerging).toBeLessThan(1e-5);
    expect(logitChange.bySaving).toBeGreaterThan(1e-5);
    expect(logitChange.bySaving).toBeLessThan(1e-1);
    expect(outcome.stdout).toMatch(
      /Largest change of a logit on a probe batch, where the largest is \d\S*: \S+ by merging, \S+ by saving as bf16/,
    );
  });
});

test("options that a method does not have are refused by name", async () => {
  const refused = async (...options: string[]) => refusal(await espalier("train", ...flags, "--run", at("refused"), ...options));
  expect(await refused("--method", "ia3", "--rank", "4")).toMatch(
    /--rank, --alpha, --dropout and --targets speak of lora; give the options of ia3/,
  );
  expect(await refused("--method", "prefix-tuning", "--method-options", "tokns=4")).toMatch(/prefix-tuning: wrong options:\n.*tokns/);
  expect(await refused("--method", "none", "--method-options", "tokens=4")).toMatch(/needs a --method that has options/);
  expect(await refused("--method", "prompt-tuning", "--method-options", "tokens=40")).toMatch(
    /--max-length 32 is longer than the context of \S+, 24 tokens/,
  );
});

test("an adapter made for another vocabulary is merged when that is asked for", async () => {
  const adapter = at("more-tokens");
  const values = (rows: number, columns: number) =>
    floats(
      [rows, columns],
      Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i) / 10),
    );
  writePeftAdapter(adapter, {
    config: { peft_type: "LORA", r: 1, lora_alpha: 1, target_modules: ["q_proj"], base_model_name_or_path: model },
    tensors: new Map([
      ["model.embed_tokens.weight", values(303, 32)],
      ...[0, 1].flatMap((layer) => [
        [`model.layers.${layer}.self_attn.q_proj.lora_A.weight`, values(1, 32)] as const,
        [`model.layers.${layer}.self_attn.q_proj.lora_B.weight`, values(32, 1)] as const,
      ]),
    ]),
  });
  const merge = ["merge", "--adapter", adapter, "--output", at("larger")];
  expect(refusal(await espalier(...merge))).toMatch(
    /made for an embedding of 303 tokens; the model's has 300\. Resize it: .*--resize-embeddings/,
  );
  const { code, stderr } = await espalier(...merge, "--resize-embeddings");
  expect({ code, stderr }).toEqual({
    code: 0,
    stderr: "The embedding is resized from 300 to 303 tokens, which the adapter was made for.\n",
  });
  expect(JSON.parse(readFileSync(join(at("larger"), "config.json"), "utf8"))).toMatchObject({ vocab_size: 303, tie_word_embeddings: true });
  const used = await espalier("generate", "--model", at("larger"), "--prompt", "the", "--max-new-tokens", "2");
  expect(used.stderr).toContain("The embedding has 303 rows and the tokenizer 300 tokens: the last 3 rows belong to no token.");
});
