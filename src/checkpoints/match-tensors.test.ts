import { expect, test } from "vitest";
import { matchTensors } from "./match-tensors.ts";
import { refusal } from "./refusal.ts";

const shapes = (entries: Record<string, number[]>) => new Map(Object.entries(entries));
const found = (entries: Record<string, number[]>) => new Map(Object.entries(entries).map(([name, shape]) => [name, { shape }]));
const read = (...[expected, got, options]: Parameters<typeof matchTensors>) => refusal(() => matchTensors(expected, got, options));

test("says nothing when names and shapes are the same, in whatever order", () => {
  matchTensors(shapes({ a: [2, 3], b: [] }), found({ b: [], a: [2, 3] }));
});

test("names missing, unexpected and misshapen tensors at once, with the nearest names", () => {
  const expected = shapes({ "model.norm.weight": [4], "model.embed.weight": [8, 4], "score.weight": [2, 4] });
  const got = found({ "model.norms.weight": [4], "model.embed.weight": [4, 8], "lm_head.weight": [8, 4], "score.weight": [2, 4] });
  expect(read(expected, got)).toEqual({
    code: "checkpoint-mismatch",
    message: `the checkpoint does not fit the model (3 tensors expected, 4 found).
  1 missing:
    "model.norm.weight" (nearest in the checkpoint: "model.norms.weight", "lm_head.weight")
  2 not expected:
    "model.norms.weight" (nearest missing: "model.norm.weight")
    "lm_head.weight" (nearest missing: "model.norm.weight")
  1 of another shape:
    "model.embed.weight" (expected [8, 4], found [4, 8])
Check that config.json belongs to these weights and that the architecture is the right one.`,
  });
});

test("a thousand wrong names are eight lines and a count", () => {
  const names = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`layers.${i}.weight`, [1]]));
  const { message } = read(shapes(names), found({}));
  expect(message).toContain('  1000 missing:\n    "layers.0.weight"\n');
  expect(message).toContain('"layers.7.weight"\n    and 992 more\n');
  expect(message).not.toContain("layers.8.");
});

test("extra tensors may be allowed", () => {
  const got = found({ w: [1], "layers.0.rotary_emb.inv_freq": [6] });
  matchTensors(shapes({ w: [1] }), got, { allowExtra: (name) => name.endsWith("inv_freq") });
  expect(read(shapes({ w: [1] }), got, { allowExtra: (name) => name.startsWith("other") }).message).toContain(
    '1 not expected:\n    "layers.0.rotary_emb.inv_freq"',
  );
});
