import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { defaultOf, flagName, type RunOption } from "../src/cli/config/run-option.ts";
import { runOptions } from "../src/cli/config/run-options.ts";
import { createProgram } from "../src/cli/program.ts";
import { families } from "../src/models/families/index.ts";

test("the page of models names every model type that is run", () => {
  const page = readFileSync(new URL("../docs/models.md", import.meta.url), "utf8");
  const rows = page.split("\n").filter((line) => line.startsWith("|"));
  const missing = families
    .flatMap(({ modelTypes }) => modelTypes)
    .filter((type) => !rows.some((row) => new RegExp(`[ ,]${type}[ ,]`).test(row)));
  expect(missing).toEqual([]);
});

describe("the page of the command", () => {
  const page = readFileSync(new URL("../docs/command.md", import.meta.url), "utf8");

  test("train: the defaults of a run", () => {
    const section = page.slice(page.indexOf("\n## train\n"), page.indexOf("\n## ", page.indexOf("\n## train\n") + 1));
    for (const [key, { schema, byDefault }] of Object.entries(runOptions) as [string, RunOption][]) {
      const fallback = defaultOf(schema);
      const flag = fallback === true ? flagName(key).replace("--", "--no-") : flagName(key);
      const row = section.split("\n").find((line) => line.startsWith(`| \`${flag}`));
      expect(row, key).toBeDefined();
      if (typeof fallback === "boolean") continue;
      if (byDefault === undefined)
        expect(row!.split("|")[2]!.trim().replaceAll("`", ""), key).toBe(fallback === undefined ? "" : String(fallback));
    }
  });

  test.each(createProgram().commands.map((command) => [command.name(), command] as const))(
    "%s: its options and their defaults",
    (name, command) => {
      const start = page.indexOf(`\n## ${name}\n`);
      expect(start).toBeGreaterThan(0);
      const section = page.slice(start, page.indexOf("\n## ", start + 1) >>> 0);
      const options = command.options.map((option) => option.long!);
      const shared = section.includes("the options of [`train`](#train)") ? Object.keys(runOptions).map(flagName) : [];
      const own = options.filter((option) => !shared.includes(option.replace("--no-", "--")));
      expect(own.filter((option) => !section.includes(option))).toEqual([]);
      for (const row of section.split("\n").filter((line) => line.startsWith("| `--"))) {
        const [, flags, value] = row.split("|");
        const named = [...flags!.matchAll(/--[a-z-]+/g)].map(([option]) => option);
        expect(named.filter((option) => !options.includes(option))).toEqual([]);
        const { defaultValue, defaultValueDescription, mandatory } = command.options.find(({ long }) => long === named[0])!;
        if (mandatory) expect(value).toContain("required");
        if (defaultValue !== undefined) expect(value!.trim().replaceAll("`", "")).toBe(defaultValueDescription ?? String(defaultValue));
      }
    },
  );
});
