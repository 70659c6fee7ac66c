import { PassThrough } from "node:stream";
import { expect, test } from "vitest";
import { formatBytes, formatDuration, Terminal } from "../../src/cli/terminal.ts";

function terminal(isTTY: boolean) {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 120, rows: 40 }) as unknown as NodeJS.WriteStream & PassThrough;
  return { terminal: new Terminal(stream), written: () => String((stream as PassThrough).read() ?? "") };
}

const [hide, show] = ["\u001b[?25l", "\u001b[?25h"];

test("on a terminal a line goes above the bar at once, and the cursor comes back", () => {
  const { terminal: t, written } = terminal(true);
  const bar = t.progress("train", 10);
  bar.update(3, "loss 1.5");
  expect(written()).toContain(hide);
  t.line("Stopping after this step.");
  const after = written();
  expect(after).toContain("Stopping after this step.\n");
  expect(after.indexOf("train")).toBeGreaterThan(after.indexOf("Stopping"));
  bar.stop();
  expect(written()).toContain(show);
  t.line("done");
  expect(written()).toBe("done\n");
});

test("a command that fails leaves no hidden cursor behind", () => {
  const { terminal: t, written } = terminal(true);
  t.progress("train", 10);
  written();
  t.stopProgress();
  expect(written()).toContain(show);
  t.stopProgress();
  expect(written()).toBe("");
});

test("elsewhere progress is a plain line now and then, and nothing steers the output", () => {
  const { terminal: t, written } = terminal(false);
  const bar = t.progress("train", 3);
  bar.update(1, "loss 2");
  bar.update(2, "loss 1");
  bar.update(3, "loss 0");
  bar.stop();
  t.showCursor();
  t.json({ a: 1 });
  expect(written()).toBe('train 1/3  loss 2\ntrain 3/3  loss 0\n{"a":1}\n');
});

test("durations and sizes", () => {
  expect([0, 5, 65, 7389].map(formatDuration)).toEqual(["0:00", "0:05", "1:05", "2:03:09"]);
  expect([1, 1500, 2_500_000, 3.2e9].map(formatBytes)).toEqual(["1 kB", "2 kB", "2.5 MB", "3.20 GB"]);
});
