import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, jsonChanges, mutated, numRuns, type Outcome, tally, timeout } from "../../tests/fuzz.ts";
import { readPeftAdapter } from "./peft-adapter.ts";
import { parsePeftConfig, unsupportedPeftOptions } from "./peft-config.ts";
import { openSafetensors } from "./safetensors.ts";

const fixtures = "tests/fixtures";
const weightsName = "adapter_model.safetensors";
const adapters = readdirSync(fixtures)
  .filter((name) => name.startsWith("peft-"))
  .filter((name) => readdirSync(join(fixtures, name)).includes(weightsName))
  .map((name) => {
    const weights = readFileSync(join(fixtures, name, weightsName));
    const [first = weights.length] = [...openSafetensors(join(fixtures, name, weightsName)).tensors.values()]
      .map(({ offset }) => offset)
      .sort((a, b) => a - b);
    return {
      config: readFileSync(join(fixtures, name, "adapter_config.json"), "utf8"),
      weights,
      header: Array.from({ length: first }, (_, i) => i),
    };
  });

const directory = fuzzDirectory();

function read(config: string | Uint8Array, weights: Uint8Array): Outcome {
  writeFileSync(join(directory.path, "adapter_config.json"), config);
  writeFileSync(join(directory.path, weightsName), weights);
  return attempt({ names: directory.path, bytes: config.length + weights.length }, () => {
    const adapter = readPeftAdapter(directory.path);
    unsupportedPeftOptions(adapter.config);
    for (const { file, offset, byteLength } of adapter.tensors.values()) {
      expect(file).toBe(join(directory.path, weightsName));
      expect(offset + byteLength).toBeLessThanOrEqual(weights.length);
    }
    // What was read can be written, and is then read as the same.
    const written = JSON.parse(JSON.stringify(adapter.config)) as unknown;
    expect(JSON.parse(JSON.stringify(parsePeftConfig(written, directory.path)))).toEqual(written);
  });
}

const anyAdapter = fc.nat(adapters.length - 1);

test("any change of adapter_config.json", { timeout }, () => {
  const outcomes = tally();
  const changed = anyAdapter.chain((index) => fc.tuple(fc.constant(index), jsonChanges(adapters[index]!.config)));
  fc.assert(
    fc.property(changed, ([index, config]) => outcomes.count(read(config, adapters[index]!.weights))),
    { numRuns },
  );
  outcomes.expectBoth();
});

test("any change of adapter_model.safetensors", { timeout }, () => {
  const outcomes = tally();
  fc.assert(
    fc.property(anyAdapter, byteMutations, fc.boolean(), (index, mutations, anywhere) => {
      const { config, weights, header } = adapters[index]!;
      outcomes.count(read(config, mutated(weights, mutations, anywhere ? undefined : header)));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
});

test.each(["(.*)*x", "(.*.*)*.*.*.*.*.*.*.*x", "(", "(?<a>"])("the pattern %s for ranks is refused within a second", (pattern) => {
  const { config, weights } = adapters.find((adapter) => adapter.config.includes('"LORA"'))!;
  expect(read(JSON.stringify({ ...JSON.parse(config), rank_pattern: { [pattern]: 4 } }), weights)).toBe("refused");
});

test("arbitrary adapter configurations", { timeout }, () => {
  const keys = fc.constantFrom(
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "bias",
    "rank_pattern",
    "use_dora",
    "init_lora_weights",
    "new_option",
  );
  const config = fc
    .dictionary(fc.oneof(keys, fc.string()), fc.jsonValue())
    .map((value) => ({ peft_type: "LORA", r: 8, lora_alpha: 16, ...value }));
  fc.assert(
    fc.property(fc.oneof(config, fc.jsonValue()), (value) => {
      attempt({ names: "dir/adapter_config.json", bytes: JSON.stringify(value).length }, () => {
        const parsed = parsePeftConfig(value, "dir/adapter_config.json");
        unsupportedPeftOptions(parsed);
        expect(parsePeftConfig(JSON.parse(JSON.stringify(parsed)), "fuzz")).toEqual(JSON.parse(JSON.stringify(parsed)));
      });
    }),
    { numRuns },
  );
});
