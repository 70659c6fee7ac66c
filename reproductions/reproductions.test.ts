import { expect, test } from "vitest";
import { pbtReproduction } from "./search/pbt.ts";

test.each([pbtReproduction])("$name goes its whole way on a small size", async (reproduction) => {
  const { measurements, checks } = await reproduction.run({ smoke: true, log: () => {} });
  expect(checks.length).toBeGreaterThan(0);
  for (const { value, relation, bound, holds } of checks) expect(holds).toBe(relation === "≥" ? value >= bound : value <= bound);
  for (const seeds of Object.values(measurements)) expect(seeds.every(Number.isFinite)).toBe(true);
});
