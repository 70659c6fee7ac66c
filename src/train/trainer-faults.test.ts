import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { counting, logged, options, weights } from "../../tests/train/counting.ts";
import { lora } from "../methods/index.ts";
import { initialState } from "./checkpoint.ts";
import { applyWeights } from "./method.ts";
import { adamW } from "./optimizers/index.ts";
import { RunDirectory } from "./run-directory.ts";
import type { TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-test-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("faults", () => {
  test("what was trained until an error stays, and speaks of no checkpoint's file", async () => {
    await train(options({ directory, steps: 2 }));
    const o = options({ directory, steps: 6, resume: true });
    const failing = {
      ...o,
      onStep({ step }: { step: number }) {
        if (step === 4) throw new Error("no more");
      },
    };
    await expect(train(failing)).rejects.toThrow("no more");
    rmSync(directory, { recursive: true });
    const four = options({ steps: 4 });
    await train(four);
    expect(weights(o.model)).toEqual(weights(four.model));

    const untouched = options({ directory, steps: 2 });
    await train(untouched);
    const resumed = options({ directory, steps: 2, resume: true });
    await train(resumed);
    expect(resumed.model.parameters().every((p) => p.storage.kind === "memory")).toBe(true);
  });

  test("a loss that is not finite stops the run and names step, batch and checkpoint; the checkpoint stays", async () => {
    const data = counting(4);
    const o = options({ directory, checkpointEvery: 2, steps: 10, data });
    // Weights that overflow at step 6, as a diverging run's would.
    const poisoned = {
      ...o,
      onStep: ({ step }: { step: number }) => step === 5 && o.device.write(o.model.model.norm.weight, new Float32Array(16).fill(3e38)),
    };
    await expect(train(poisoned)).rejects.toThrow(
      /^Step 6: the (loss|gradient norm) became (NaN|Infinity) on batch 5\. The last finite checkpoint is .*step-4\. Lower the learning rate/,
    );
    expect(existsSync(join(directory, "checkpoints/step-4/state.safetensors"))).toBe(true);
  });

  test("resuming where there is nothing says so", async () => {
    await expect(train(options({ directory, resume: true }))).rejects.toThrow(/holds no finished checkpoint/);
  });

  test("resuming with another method names what is missing", async () => {
    await train(options({ directory, steps: 2 }));
    const o = options({ directory, steps: 4, resume: true });
    applyWeights(o.model, [lora({ rank: 2 })]);
    await expect(train(o)).rejects.toThrow(/the checkpoint lacks "model.layers.0.self_attn.q_proj.lora_A.weight"/);
  });

  test("resuming with another rank names the tensor and both shapes", async () => {
    const adapted = (rank: number, overrides: Partial<TrainOptions>) => {
      const o = options({ directory, ...overrides });
      applyWeights(o.model, [lora({ rank, targets: ["q_proj"] })]);
      return o;
    };
    await train(adapted(2, { steps: 2 }));
    await expect(train(adapted(4, { steps: 4, resume: true }))).rejects.toThrow(
      /step-2: "model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight" is float32 \[2, 16\] in the checkpoint and float32 \[4, 16\] in this run/,
    );
  });

  test("weights that the last update broke are no checkpoint, though the loss before it was finite", async () => {
    const o = options({ directory, steps: 1 });
    await train(o);
    const broken = options({ directory, steps: 2, resume: true, optimizer: adamW({ learningRate: 1e39 }) });
    await expect(train(broken)).rejects.toThrow(
      /^Step 2: ".*" holds NaN or infinite values after the update, so no checkpoint of it is written\. The checkpoint of step 1 is intact in .*step-1\./,
    );
    expect(existsSync(join(directory, "checkpoints/step-2"))).toBe(false);
  });

  test("a directory that holds a run is refused without resume, and stays as it is", async () => {
    await train(options({ directory, steps: 4 }));
    const before = logged(directory);
    await expect(train(options({ directory, steps: 2 }))).rejects.toThrow(
      /holds a run already \(checkpoint of step 4\): continue it with resume \(--resume\), .*--replace/,
    );
    expect(logged(directory)).toEqual(before);
    expect(existsSync(join(directory, "checkpoints/step-4"))).toBe(true);
  });

  test("the checkpoint just written is never removed, whatever higher numbers lie there", async () => {
    await train(options({ directory, steps: 8, checkpointEvery: 4 }));
    const { model, device } = options();
    const state = { ...initialState(), step: 2 };
    const written = new RunDirectory(directory).saveCheckpoint(state, model.parameters(), device, 1);
    expect(readdirSync(join(directory, "checkpoints"))).toEqual(["step-2"]);
    expect(existsSync(join(written, "state.safetensors"))).toBe(true);
  });

  test("nothing trainable is refused", async () => {
    const o = options({ steps: 1 });
    o.model.freeze();
    await expect(train(o)).rejects.toThrow(/No parameter is trainable/);
  });

  test("checkpoints beyond `keep` are removed", async () => {
    await train(options({ directory, steps: 8, checkpointEvery: 2, keep: 2 }));
    expect(existsSync(join(directory, "checkpoints/step-4"))).toBe(false);
    expect(existsSync(join(directory, "checkpoints/step-6"))).toBe(true);
    expect(existsSync(join(directory, "checkpoints/step-8"))).toBe(true);
  });
});
