import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { families } from "../src/models/families/index.ts";

test("the page of models names every model type that is run", () => {
  const page = readFileSync(new URL("../docs/models.md", import.meta.url), "utf8");
  const rows = page.split("\n").filter((line) => line.startsWith("|"));
  const missing = families
    .flatMap(({ modelTypes }) => modelTypes)
    .filter((type) => !rows.some((row) => new RegExp(`[ ,]${type}[ ,]`).test(row)));
  expect(missing).toEqual([]);
});
