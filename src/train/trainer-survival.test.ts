import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { counting, logged, options, weights } from "../../tests/train/counting.ts";
import type { Batch, BatchSource } from "../data/index.ts";
import { add, fill, mul, sum, transpose } from "../ops/index.ts";
import { hostTensor } from "../runtime/index.ts";
import type { Objective } from "./objectives/index.ts";
import { adamW } from "./optimizers/index.ts";
import type { StepReport, TrainOptions } from "./train-options.ts";
import { train } from "./trainer.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-survival-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const notices = () => {
  const heard: string[] = [];
  return { heard, onNotice: (message: string) => void heard.push(message) };
};

describe("checkpoints", () => {
  const checkpoint = (step: number, name = "") => join(directory, "checkpoints", `step-${step}`, name);
  const flipByte = (file: string) => {
    const bytes = readFileSync(file);
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(file, bytes);
  };

  test.each<[string, () => void, RegExp]>([
    [
      "a flipped bit",
      () => flipByte(checkpoint(8, "state.safetensors")),
      /state\.safetensors has the SHA-256 \w{12}… and was written with \w{12}…/,
    ],
    ["a file cut short", () => truncateSync(checkpoint(8, "state.safetensors"), 99), /state\.safetensors has the SHA-256/],
    ["another position", () => writeFileSync(checkpoint(8, "trainer.json"), "{}"), /trainer\.json has the SHA-256/],
    ["a lost file", () => rmSync(checkpoint(8, "state.safetensors")), /state\.safetensors is missing/],
    ["no hashes", () => rmSync(checkpoint(8, "SHA256SUMS")), /SHA256SUMS is missing/],
    ["hashes cut short", () => truncateSync(checkpoint(8, "SHA256SUMS"), 90), /SHA256SUMS does not name trainer\.json/],
  ])("%s: the run goes on from the checkpoint before, says so, and ends as if nothing had been", async (_, damage, message) => {
    const whole = options({ steps: 10 });
    await train(whole);
    await train(options({ directory, steps: 8, checkpointEvery: 4 }));
    damage();
    const { heard, onNotice } = notices();
    const resumed = options({ directory, steps: 10, resume: true, onNotice });
    await train(resumed);
    expect(heard).toEqual([expect.stringMatching(message)]);
    expect(heard[0]).toMatch(/checkpoints\/step-8 is damaged: .* The run goes on from step 4\.$/);
    expect(weights(resumed.model)).toEqual(weights(whole.model));
    expect(logged(directory).map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    // What was damaged takes no good one's place.
    expect(readdirSync(join(directory, "checkpoints")).sort()).toEqual(["step-10", "step-4"]);
  });

  test("all damaged: the run is refused, each is named, and nothing is changed", async () => {
    await train(options({ directory, steps: 8, checkpointEvery: 4 }));
    flipByte(checkpoint(8, "state.safetensors"));
    rmSync(checkpoint(4, "trainer.json"));
    const before = logged(directory);
    await expect(train(options({ directory, steps: 10, resume: true }))).rejects.toThrow(
      /no checkpoint is as it was written\. .*step-8 is damaged: .*step-4 is damaged: trainer\.json is missing/,
    );
    expect(logged(directory)).toEqual(before);
    expect(existsSync(checkpoint(8))).toBe(true);
  });

  test("they are told of, and their hashes are those that sha256sum checks", async () => {
    const told: [number, string][] = [];
    await train(options({ directory, steps: 5, checkpointEvery: 2, onCheckpoint: (step, path) => void told.push([step, path]) }));
    expect(told).toEqual([2, 4, 5].map((step) => [step, checkpoint(step)]));
    expect(readFileSync(checkpoint(5, "SHA256SUMS"), "utf8")).toMatch(
      /^[0-9a-f]{64} {2}state\.safetensors\n[0-9a-f]{64} {2}trainer\.json\n$/,
    );
  });

  test("the evaluation that a killed run still owed is made up for", async () => {
    const evaluate = async (step: number) => ({ accuracy: step });
    const killed = new Error("killed");
    const failing = { evaluate: () => Promise.reject(killed), evaluateEvery: 4, checkpointEvery: 4 };
    await expect(train(options({ directory, steps: 8, ...failing }))).rejects.toBe(killed);
    await train(options({ directory, steps: 8, ...failing, evaluate, resume: true }));
    const evaluations = logged(directory).filter((line) => "eval.accuracy" in line);
    expect(evaluations).toEqual([
      { step: 4, "eval.accuracy": 4 },
      { step: 8, "eval.accuracy": 8 },
    ]);
  });

  test("a clock that goes backwards changes nothing", async () => {
    const whole = options({ steps: 6 });
    await train(whole);
    let now = Date.now();
    const clock = vi.spyOn(Date, "now").mockImplementation(() => (now -= 3_600_000));
    onTestFinished(() => clock.mockRestore());
    await train(options({ directory, steps: 4, checkpointEvery: 2 }));
    const resumed = options({ directory, steps: 6, resume: true });
    const result = await train(resumed);
    expect(weights(resumed.model)).toEqual(weights(whole.model));
    expect(result.seconds).toBeGreaterThan(0);
    expect(Math.min(...Object.values(result.milliseconds))).toBeGreaterThanOrEqual(0);
  });
});

test("two runs in one directory: the second is refused, and the first ends as if it had been alone", async () => {
  const first = options({ directory, steps: 4 });
  const running = train(first);
  await expect(train(options({ directory, steps: 4 }))).rejects.toMatchObject({ code: "run-locked" });
  await running;
  const alone = options({ steps: 4 });
  await train(alone);
  expect(weights(first.model)).toEqual(weights(alone.model));
  expect(existsSync(join(directory, "run.lock"))).toBe(false);
});

describe("batches that are not finite", () => {
  /** Batches of `counting`, with a poisoned one put in at some places; the objective multiplies its loss by `scale`. */
  const poisoned = (places: readonly number[], scale: number): BatchSource => {
    const good = counting(4);
    const batch = (step: number): Batch => {
      const before = places.filter((place) => place < step).length;
      const { feeds, ...rest } = good.batch(step - before);
      const factor = places.includes(step) ? scale : 1;
      return { ...rest, feeds: { ...feeds, scale: hostTensor("float32", [], Float32Array.of(factor)) }, description: `batch ${step}` };
    };
    return { batchesPerEpoch: 50, batch };
  };
  const run = (places: readonly number[], overrides: Partial<TrainOptions> = {}, scale = Number.NaN) => {
    const o = options({ data: poisoned(places, scale), notFinite: "skip", ...overrides });
    const base = o.objective;
    const objective: Objective = {
      ...base,
      trace(inputs) {
        const traced = base.trace(inputs);
        return { ...traced, total: mul(traced.total, inputs.scale!) };
      },
    };
    return { ...o, objective };
  };

  test.each([Number.NaN, Number.POSITIVE_INFINITY])(
    "a batch with loss %d leaves no trace: neither in weights nor in moments nor in the number of updates",
    async (scale) => {
      const { heard, onNotice } = notices();
      const clean = run([], { steps: 8, directory: join(directory, "clean") });
      await train(clean);
      const skipping = run([0, 3, 4], { steps: 11, directory: join(directory, "skipping"), onNotice }, scale);
      const result = await train(skipping);
      expect(weights(skipping.model)).toEqual(weights(clean.model));
      const state = (name: string, step: number) => readFileSync(join(directory, name, "checkpoints", `step-${step}`, "state.safetensors"));
      expect(state("skipping", 11).equals(state("clean", 8))).toBe(true);
      expect(result).toMatchObject({ steps: 11, skippedBatches: 3, tokens: 8 * 32 });
      expect(heard).toEqual(
        [1, 4, 5].map((step) => expect.stringMatching(`^Step ${step}: the loss became .* on batch ${step - 1}, which is skipped`)),
      );
      expect(logged(join(directory, "skipping"))[3]).toMatchObject({ step: 4, loss: null, skippedBatches: 1 });
    },
  );

  test("of an accumulated step the batch alone is left out, or the whole step where all its batches are so", async () => {
    const { onNotice } = notices();
    // Two steps of two batches; then batch 4 is poisoned, so that step 3 has one batch; step 4 has none.
    const skipping = run([4, 6, 7], { steps: 4, accumulate: 2, onNotice });
    const result = await train(skipping);
    expect(result.skippedBatches).toBe(3);
    const good = counting(4);
    const two = run([], { steps: 2, accumulate: 2, directory });
    await train(two);
    // The third step with its one batch: the other has no targets, so that the weights of the loss are those of one.
    const silent = (batch: Batch): Batch => ({
      ...batch,
      feeds: { ...batch.feeds, targets: hostTensor("int64", [4, 8], new BigInt64Array(32).fill(-100n)) },
    });
    const scale = hostTensor("float32", [], Float32Array.of(1));
    const third: BatchSource = {
      batchesPerEpoch: 50,
      batch(step) {
        const batch = good.batch(step === 5 ? 4 : step);
        return { ...(step === 4 ? silent(batch) : batch), feeds: { ...(step === 4 ? silent(batch) : batch).feeds, scale } };
      },
    };
    const resumed = { ...run([], { steps: 3, accumulate: 2, directory, resume: true }), data: third };
    await train(resumed);
    expect(weights(resumed.model)).toEqual(weights(skipping.model));
  });

  test("gradients that overflow though the loss is finite are found too, accumulated or not", async () => {
    for (const accumulate of [1, 2]) {
      const { heard, onNotice } = notices();
      const o = run([0], { steps: 1, accumulate, onNotice }, 2e36);
      const before = o.model.parameters().map((p) => Array.from(o.device.read(p).data as Float32Array));
      await train(o);
      expect(heard[0]).toMatch(/^Step 1: the gradient norm became (Infinity|NaN) on batch 0/);
      expect(weights(o.model)).toEqual(before);
    }
  });

  test("too many in a row stop the run, also when it was resumed in between", async () => {
    const { heard, onNotice } = notices();
    const places = [4, 5, 6, 7, 8, 9];
    await train(run(places, { steps: 6, directory, skipLimit: 4, onNotice }));
    await expect(train(run(places, { steps: 12, directory, skipLimit: 4, resume: true, onNotice }))).rejects.toThrow(
      /^Step 8: the loss became NaN on batch 7, and 4 steps in a row were skipped/,
    );
    expect(heard).toHaveLength(4);
  });

  test("by default the run stops, and the weights are the last good ones", async () => {
    const three = run([], { steps: 3 });
    await train(three);
    const stopped = run([3], { steps: 9, notFinite: undefined });
    await expect(train(stopped)).rejects.toThrow(/^Step 4: the loss became NaN on batch 3\. No checkpoint was written before\./);
    expect(weights(stopped.model)).toEqual(weights(three.model));
  });
});

describe("batches without targets", () => {
  const silent = (places: (step: number) => boolean, batchesPerEpoch = 5): BatchSource => ({
    batchesPerEpoch,
    batch(step) {
      const batch = counting(4).batch(step);
      const targets = hostTensor("int64", [4, 8], new BigInt64Array(32).fill(-100n));
      return places(step) ? { ...batch, feeds: { ...batch.feeds, targets } } : batch;
    },
  });

  test.each([1, 2])("one changes nothing, not even by weight decay or the moments' fading (%d batches per step)", async (accumulate) => {
    const { heard, onNotice } = notices();
    const optimizer = () => adamW({ learningRate: 1e-2, weightDecay: 0.1 });
    const two = options({ steps: 2, accumulate, optimizer: optimizer() });
    await train(two);
    const o = options({ steps: 3, accumulate, data: silent((step) => step >= 2 * accumulate), optimizer: optimizer(), onNotice });
    await train(o);
    expect(weights(o.model)).toEqual(weights(two.model));
    expect(heard).toEqual([expect.stringContaining("Step 3: its batch has no target that counts")]);
  });

  test("where a whole epoch has none, the run stops and says what to look at", async () => {
    const { onNotice } = notices();
    await expect(train(options({ steps: 50, data: silent(() => true), onNotice }))).rejects.toThrow(
      /^Not one target in 5 batches counts, and an epoch has 5: all are padding or ignored/,
    );
  });

  test("data without a single batch are refused", async () => {
    await expect(train(options({ data: { ...counting(4), batchesPerEpoch: 0 } }))).rejects.toMatchObject({ code: "empty-data" });
  });
});

describe("time", () => {
  test("each step says where its time went, and the run's parts make up the whole", async () => {
    const slow: BatchSource = {
      batchesPerEpoch: 50,
      async batch(step) {
        if (step === 3) await new Promise((resolve) => setTimeout(resolve, 120));
        return counting(4).batch(step);
      },
    };
    const reports: StepReport[] = [];
    const evaluate = async () => ({ a: 1 });
    const result = await train(
      options({ data: slow, steps: 6, directory, checkpointEvery: 2, evaluate, onStep: (report) => void reports.push(report) }),
    );
    expect(reports[3]!.milliseconds.data).toBeGreaterThan(60);
    expect(Math.max(...[0, 1, 2, 4, 5].map((i) => reports[i]!.milliseconds.data))).toBeLessThan(60);
    for (const { milliseconds } of reports) expect(milliseconds.session).toBeGreaterThan(0);
    const { milliseconds } = result;
    expect(milliseconds.compile).toBeGreaterThan(milliseconds.evaluations);
    expect(milliseconds.checkpoints).toBeGreaterThan(0);
    const sum = Object.values(milliseconds).reduce((a, b) => a + b);
    expect(sum).toBeLessThanOrEqual(result.seconds * 1000);
    expect(sum).toBeGreaterThan(result.seconds * 500);
    const line = logged(directory)[3] as unknown as { dataMilliseconds: number };
    expect(line.dataMilliseconds).toBe(reports[3]!.milliseconds.data);
  });
});

test("a lack of memory says what may be changed, and the run goes on from its checkpoint", async () => {
  await train(options({ directory, steps: 2 }));
  const o = options({ directory, steps: 4, resume: true });
  const objective: Objective = {
    ...o.objective,
    trace(inputs) {
      const traced = o.objective.trace(inputs);
      // Four terabytes at once.
      const column = mul(fill([1_000_000, 1], 0), traced.total);
      return { ...traced, total: add(traced.total, sum(mul(column, transpose(column, [1, 0])))) };
    },
  };
  await expect(train({ ...o, objective })).rejects.toThrow(
    /not enough memory( \(\d+ MB were asked for at once\))?\. .*lower the batch size .*--accumulate.*--max-length.*--base-dtype/,
  );
  expect(await train(options({ directory, steps: 4, resume: true }))).toMatchObject({ steps: 4, interrupted: false });
});

test.each(["steps", "accumulate", "keep", "checkpointEvery"] as const)("%s must be a whole number", async (name) => {
  await expect(train(options({ [name]: 1.5 }))).rejects.toThrow(`train: ${name} must be a whole number of at least 1, got 1.5.`);
});
