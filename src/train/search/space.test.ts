import { expect, test } from "vitest";
import { choice, draw, grid, uniform, wholeNumber } from "./space.ts";

test("of finitely many settings none is drawn twice, and no more than there are", () => {
  const space = { rank: choice(2, 4, 4), epochs: wholeNumber(1, 3) };
  const all = draw(space, 100, 0);
  const inOrder = (settings: readonly object[]) => settings.map((values) => JSON.stringify(values)).sort();
  expect(inOrder(all)).toEqual(inOrder(grid({ rank: choice(2, 4), epochs: wholeNumber(1, 3) })));
  // Fewer are the first of them; another seed draws in another order.
  expect(draw(space, 4, 0)).toEqual(all.slice(0, 4));
  expect(draw(space, 100, 1)).not.toEqual(all);
});

test("a range of numbers has no end of settings", () => {
  const drawn = draw({ rank: choice(8), dropout: uniform(0, 0.2) }, 50, 0);
  expect(new Set(drawn.map(({ dropout }) => dropout)).size).toBe(50);
});
