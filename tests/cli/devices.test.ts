import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { providers } from "../ops/providers.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
const data = writeLabelled(join(directory, "data.jsonl"));
const few = writeLabelled(join(directory, "few.jsonl"), 6);
const train = ["train", "--no-config", "--model", model, "--data", data, "--steps", "3", "--max-length", "48", "--no-report"];

describe.skipIf(!providers.includes("webgpu"))("through WebGPU", () => {
  test("a run and a text are those of the processor", async () => {
    const losses: number[] = [];
    for (const device of ["cpu", "webgpu"]) {
      const small = ["--eval-data", few, "--steps", "2", "--batch-size", "4", "--no-baseline"];
      losses.push(
        summary(await espalier(...train, ...small, "--device", device, "--run", join(directory, device), "--json")).evalLossAfter as number,
      );
    }
    expect(losses[1]).toBeCloseTo(losses[0]!, 4);
    const texts: unknown[] = [];
    const write = ["generate", "--model", model, "--prompt", "a tree", "--temperature", "0", "--max-new-tokens", "8", "--json"];
    for (const device of ["cpu", "webgpu"]) {
      const { code, stdout } = await espalier(...write, "--device", device);
      expect(code).toBe(0);
      texts.push(JSON.parse(stdout.trimEnd().split("\n").at(-1)!).text);
    }
    expect(texts[1]).toBe(texts[0]);
  });
});

test("what the machine lacks is refused with what to install, before anything is written", async () => {
  expect(refusal(await espalier(...train, "--device", "cuda", "--run", join(directory, "none")))).toMatch(
    /ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild|has no CUDA provider/,
  );
  expect(refusal(await espalier(...train, "--compute", "float16", "--run", join(directory, "none")))).toContain(
    "The processor has no matrix products in float16",
  );
  expect(refusal(await espalier(...train, "--device", "tpu"), 2)).toContain("Allowed choices are cpu, webgpu, cuda.");
});
