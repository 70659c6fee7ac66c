import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, fuzzDirectory, jsonChanges, numRuns, type Outcome, tally, timeout } from "../../../tests/fuzz.ts";
import { loadCausalLM } from "../../models/index.ts";
import { loadAdapter } from "./load-adapter.ts";

const fixtures = "tests/fixtures";
const weightsName = "adapter_model.safetensors";
const adapters = readdirSync(fixtures)
  .filter((name) => name.startsWith("peft-") && existsSync(join(fixtures, name, weightsName)))
  .map((name) => {
    const config = readFileSync(join(fixtures, name, "adapter_config.json"), "utf8");
    const parsed = JSON.parse(config) as { base_model_name_or_path: string; task_type: string; target_modules?: unknown };
    return {
      ...parsed,
      name,
      config,
      base: join(fixtures, name, parsed.base_model_name_or_path),
      weights: readFileSync(join(fixtures, name, weightsName)),
    };
  })
  .filter(({ task_type }) => task_type === "CAUSAL_LM");
const directory = fuzzDirectory();

function load({ base, weights }: (typeof adapters)[number], config: string | Uint8Array): Outcome {
  const model = loadCausalLM(base);
  writeFileSync(join(directory.path, "adapter_config.json"), config);
  writeFileSync(join(directory.path, weightsName), weights);
  // The base model may be read for what adapters compute with its weights.
  return attempt({ names: directory.path, bytes: config.length + weights.length + 2e5 }, () =>
    loadAdapter(model, directory.path, { resize: true }),
  );
}

test("any change of adapter_config.json, on its model", { timeout }, () => {
  const outcomes = tally();
  const changed = fc.nat(adapters.length - 1).chain((index) => fc.tuple(fc.constant(index), jsonChanges(adapters[index]!.config)));
  fc.assert(
    fc.property(changed, ([index, config]) => outcomes.count(load(adapters[index]!, config))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test.each(["target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"])(
  "a pattern without an end in %s is refused within a second",
  (key) => {
    const adapter = adapters.find(({ name }) => name === "peft-lora-layers")!;
    const pattern = "(.*)*x";
    const value = key.startsWith("rank") || key.startsWith("alpha") ? { [pattern]: 4 } : pattern;
    expect(load(adapter, JSON.stringify({ ...JSON.parse(adapter.config), [key]: value }))).toBe("refused");
  },
);
