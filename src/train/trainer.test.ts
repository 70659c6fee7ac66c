import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { BatchSource } from "../data/index.ts";
import { Random } from "../graph/index.ts";
import { lora } from "../methods/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/llama.ts";
import { hostTensor } from "../runtime/index.ts";
import { cpu } from "../runtime/node.ts";
import { Evaluator } from "./evaluate.ts";
import { applyWeights } from "./method.ts";
import { causalLanguageModel } from "./objectives.ts";
import { adamW } from "./optimizers.ts";
import { RunDirectory } from "./run-directory.ts";
import { schedule } from "./schedules.ts";
import type { TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

const config = llamaConfigSchema.parse({
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 32,
});

/** A language that a model can learn: every token is the one before plus three. */
function counting(batchSize: number): BatchSource {
  return {
    batchesPerEpoch: 50,
    batch(step) {
      const random = new Random(9, step);
      const starts = Array.from({ length: batchSize }, () => random.integer(32));
      const at = (offset: number) =>
        BigInt64Array.from({ length: batchSize * 8 }, (_, i) => BigInt((starts[Math.floor(i / 8)]! + 3 * ((i % 8) + offset)) % 32));
      const shape = [batchSize, 8];
      return {
        feeds: { ids: hostTensor("int64", shape, at(0)), targets: hostTensor("int64", shape, at(1)) },
        tokens: batchSize * 8,
        examples: batchSize,
        description: `batch ${step}`,
      };
    },
  };
}

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-test-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function options(overrides: Partial<TrainOptions> = {}): TrainOptions & { model: LlamaForCausalLM } {
  const model = new LlamaForCausalLM(config, 3);
  return {
    model,
    objective: causalLanguageModel(model),
    data: counting(4),
    device: cpu({ threads: 1 }),
    optimizer: adamW({ learningRate: 1e-2 }),
    steps: 12,
    seed: 5,
    ...overrides,
  } as TrainOptions & { model: LlamaForCausalLM };
}

const weights = (model: LlamaForCausalLM) => model.parameters().map((p) => Array.from((p.storage as { data: Float32Array }).data));
const logged = (run: string) =>
  readFileSync(join(run, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss: number; gradientNorm: number });

describe("training", () => {
  test("learns, and the evaluator sees the trained weights", async () => {
    const o = options({ steps: 120, schedule: schedule("cosine", { warmup: 10 }) });
    const evaluator = new Evaluator(o.device, o.objective);
    const before = await evaluator.run({ ...counting(4), batchesPerEpoch: 5 });
    const result = await train(o);
    const after = await evaluator.run({ ...counting(4), batchesPerEpoch: 5 });
    expect(before.loss).toBeGreaterThan(3.2); // ln 32 = 3.47
    expect(after.loss).toBeLessThan(0.5);
    expect(result).toMatchObject({ steps: 120, interrupted: false, tokens: 120 * 32 });
  });

  test("a run that was stopped and resumed equals one that was not, bit for bit", async () => {
    const whole = options({ directory: join(directory, "whole") });
    await train(whole);

    const controller = new AbortController();
    const stopped = await train(
      options({ directory: join(directory, "parts"), signal: controller.signal, onStep: ({ step }) => step === 5 && controller.abort() }),
    );
    expect(stopped).toMatchObject({ steps: 5, interrupted: true });
    const resumed = options({ directory: join(directory, "parts"), resume: true });
    await train(resumed);

    expect(weights(resumed.model)).toEqual(weights(whole.model));
    const strip = (run: string) => logged(join(directory, run)).map(({ step, loss, gradientNorm }) => ({ step, loss, gradientNorm }));
    expect(strip("parts")).toEqual(strip("whole"));
  });

  test("the same with dropout: its random numbers are a function of the step", async () => {
    const adapted = (overrides: Partial<TrainOptions>) => {
      const o = options(overrides);
      applyWeights(o.model, [lora({ rank: 4, dropout: 0.3, targets: "all-linear" })]);
      return o;
    };
    const whole = adapted({});
    await train(whole);
    const other = adapted({ seed: 6 });
    await train(other);
    const controller = new AbortController();
    await train(adapted({ directory, signal: controller.signal, onStep: ({ step }) => step === 7 && controller.abort() }));
    const resumed = adapted({ directory, resume: true });
    await train(resumed);
    const trained = (o: { model: LlamaForCausalLM }) =>
      o.model.trainableParameters().map((p) => Array.from((p.storage as { data: Float32Array }).data));
    expect(trained(resumed)).toEqual(trained(whole));
    expect(trained(other)).not.toEqual(trained(whole));
  });

  test("accumulating four batches equals one large batch", async () => {
    const large: BatchSource = counting(8);
    // The same rows, two at a time.
    const parts: BatchSource = {
      batchesPerEpoch: 200,
      batch(step) {
        const whole = large.batch(Math.floor(step / 4));
        const rows = (name: string) =>
          hostTensor("int64", [2, 8], (whole.feeds[name]!.data as BigInt64Array).slice((step % 4) * 16, (step % 4) * 16 + 16));
        return { feeds: { ids: rows("ids"), targets: rows("targets") }, tokens: 16, examples: 2, description: "" };
      },
    };
    const a = options({ data: large, steps: 6 });
    const b = options({ data: parts, accumulate: 4, steps: 6 });
    await train(a);
    await train(b);
    const [wa, wb] = [weights(a.model).flat(), weights(b.model).flat()];
    expect(Math.max(...wa.map((v, i) => Math.abs(v - wb[i]!)))).toBeLessThan(2e-5);
  });

  test.each([1, 2])("a batch without targets leaves the weights alone (%d batches per step)", async (accumulate) => {
    const data = counting(4);
    const silent: BatchSource = {
      ...data,
      batch(step) {
        const { feeds, ...batch } = data.batch(step);
        return { ...batch, feeds: { ...feeds, targets: hostTensor("int64", [4, 8], new BigInt64Array(32).fill(-100n)) } };
      },
    };
    const o = options({ data: silent, accumulate, steps: 2 });
    const before = o.model.parameters().map((p) => Array.from(o.device.read(p).data as Float32Array));
    const result = await train(o);
    expect(result.lastLoss).toBe(0);
    expect(weights(o.model)).toEqual(before);
  });

  test("clipping bounds the update, and the norm that is reported is the one before", async () => {
    const o = options({ steps: 1, directory, maxGradientNorm: 0.01 });
    await train(o);
    expect(logged(directory)[0]!.gradientNorm).toBeGreaterThan(0.1);
  });

  test("only unfrozen parameters change, and an adapter starts as the base model", async () => {
    const o = options({ steps: 3 });
    const before = new LlamaForCausalLM(config, 3);
    applyWeights(o.model, [lora({ rank: 2, targets: ["q_proj"] })]);
    const base = await new Evaluator(o.device, causalLanguageModel(before)).run({ ...counting(4), batchesPerEpoch: 2 });
    const adapted = await new Evaluator(o.device, o.objective).run({ ...counting(4), batchesPerEpoch: 2 });
    expect(adapted.loss).toBeCloseTo(base.loss, 6);
    await train(o);
    expect(o.model.trainableParameters().map((p) => p.name)).toEqual(
      [0, 1].flatMap((l) => ["A", "B"].map((m) => `model.layers.${l}.self_attn.q_proj.lora_${m}.weight`)),
    );
    expect(Array.from(o.device.read(o.model.model.norm.weight).data as Float32Array)).toEqual(Array(16).fill(1));
  });
});

describe("figures", () => {
  test("compilation is no part of the speed, and the peak of memory is that of the whole process", async () => {
    const o = options({ steps: 3 });
    const compile = o.device.compile.bind(o.device);
    o.device.compile = async (traced) => {
      await setTimeout(400);
      return compile(traced);
    };
    const speeds: number[] = [];
    let memory = 0;
    const result = await train({
      ...o,
      onStep(report) {
        speeds.push(report.tokensPerSecond);
        memory = Math.max(memory, report.memory);
      },
    });
    // 32 tokens per batch: 80 per second if the compilation counted.
    expect(Math.min(...speeds, result.tokensPerSecond)).toBeGreaterThan(80);
    expect(result.peakMemory).toBeGreaterThanOrEqual(memory);
    expect(result.seconds).toBeGreaterThan(0.4);
  });

  test("evaluations before, during and after training are logged, each once", async () => {
    const evaluate = async (step: number) => ({ accuracy: step / 10 });
    const o = { steps: 5, directory, evaluateEvery: 2, evaluate, baseline: { accuracy: 0.5 } };
    await train(options(o));
    await train(options({ ...o, resume: true }));
    const run = new RunDirectory(directory);
    run.logEvaluation(5, { accuracy: 0.5 });
    const accuracies = (logged(directory) as { step: number; "eval.accuracy"?: number }[]).filter((m) => "eval.accuracy" in m);
    expect(accuracies.map((m) => [m.step, m["eval.accuracy"]])).toEqual([
      [0, 0.5],
      [2, 0.2],
      [4, 0.4],
      [5, 0.5],
    ]);
  });
});

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
    const broken = options({ directory, steps: 2, resume: true, optimizer: adamW({ learningRate: Number.POSITIVE_INFINITY }) });
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

  test("the checkpoint just written is never removed", async () => {
    const o = options({ directory, steps: 2, keep: 0 });
    mkdirSync(join(directory, "checkpoints"));
    const { checkpoint } = await train(o);
    expect(existsSync(join(checkpoint!, "state.safetensors"))).toBe(true);
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
