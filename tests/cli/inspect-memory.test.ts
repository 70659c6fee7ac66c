import { join } from "node:path";
import { expect, test } from "vitest";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
const inspect = (...flags: string[]) =>
  espalier("inspect", "--model", model, "--batch-size", "8", "--max-length", "64", ...flags, "--json");

interface Outcome {
  estimatedMemoryMB: number;
  proposals: { flags: string; estimatedMemoryMB: number }[];
  [key: string]: unknown;
}

test("what fits says so; what does not says what to change, each really estimated", async () => {
  expect(summary(await inspect())).toMatchObject({ fits: true });
  const outcome = await inspect("--memory", "1MB");
  const { proposals, estimatedMemoryMB, ...rest } = summary(outcome) as unknown as Outcome;
  expect(rest).toMatchObject({ fits: false, availableMemoryMB: 1 });
  const flags = proposals.map((p) => p.flags);
  for (const wanted of ["--rematerialise", "--base-dtype int8", "--batch-size 4 --accumulate 2", "--max-length 32"])
    expect(flags).toContain(wanted);
  expect(outcome.stdout).toContain("1.0 MB may be taken: it does not fit");
  expect(outcome.stdout).toContain("nothing alone makes it fit; what needs least:");
  for (const p of proposals) expect(p.estimatedMemoryMB).toBeLessThanOrEqual(estimatedMemoryMB);
});

test("an amount of memory that is none, and a task whose step is not known", async () => {
  expect(refusal(await inspect("--memory", "lots"), 2)).toContain("It must be an amount of memory, as 2GB or 1500MB.");
  expect(refusal(await inspect("--task", "ctc"))).toContain("inspect knows the training steps of a language model, ");
});
