import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { grad } from "../../autodiff/index.ts";
import type { ImmediateBatchSource } from "../../data/index.ts";
import { assign, Random, read, trace, Variable } from "../../graph/index.ts";
import { Linear, Module, normal } from "../../nn/index.ts";
import { add, fill, matmul, mean, mul, sub, sum } from "../../ops/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { Evaluator } from "../../train/evaluate.ts";
import type { Objective } from "../../train/objectives/index.ts";
import { adamW } from "../../train/optimizers/index.ts";
import { logUniform, type Space, uniform, type Values } from "../../train/search/space.ts";
import { train } from "../../train/trainer.ts";
import { never, truncation } from "./exploit.ts";
import { perturb } from "./explore.ts";
import { policyLine, replay, scheduleOf } from "./lineage.ts";
import { type PbtTask, pbt } from "./pbt.ts";
import type { Population } from "./population.ts";
import { RunPopulation } from "./run-population.ts";
import { StackedPopulation } from "./stacked-population.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-pbt-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const [members, steps] = [4, 12];
const space: Space = { learningRate: logUniform(1e-4, 1), weightDecay: uniform(0, 0.1) };
const options = { population: members, ready: 3, exploit: truncation(0.25), explore: perturb() };

/** x [8, 4] and what a fixed matrix makes of it. */
function examples(step: number): { x: Float32Array; y: Float32Array } {
  const random = new Random(3, step);
  const x = Float32Array.from({ length: 32 }, () => random.normal());
  const y = Float32Array.from({ length: 24 }, (_, i) =>
    [0, 1, 2, 3].reduce((s, k) => s + x[4 * Math.floor(i / 3) + k]! * (k - (i % 3)), 0),
  );
  return { x, y };
}

/** Linear maps 4 → 3 that learn by momentum as one graph, and what each has weighed in all. */
async function stacked(count = members, firstSeed = 0) {
  const device = cpu({ threads: 1 });
  const initial = Float32Array.from(
    Array.from({ length: count }, (_, m) => new Random(firstSeed + m)).flatMap((r) => Array.from({ length: 12 }, () => r.normal())),
  );
  const weight = new Variable(
    "weight",
    { dtype: "float32", shape: [count, 4, 3] },
    { kind: "memory", dtype: "float32", shape: [count, 4, 3], data: initial },
  );
  const momentum = new Variable(
    "momentum",
    { dtype: "float32", shape: [count, 4, 3] },
    { kind: "memory", dtype: "float32", shape: [count, 4, 3], data: new Float32Array(12 * count) },
  );
  const types = { x: { dtype: "float32", shape: [8, 4] }, y: { dtype: "float32", shape: [8, 3] } } as const;
  const rates = { rate: { dtype: "float32", shape: [count, 1, 1] }, decay: { dtype: "float32", shape: [count, 1, 1] } } as const;
  const errors = ({ x, y }: Record<"x" | "y", Parameters<typeof matmul>[0]>) => {
    const error = sub(matmul(x, read(weight)), y);
    return mul(error, error);
  };
  const program = await device.compile(
    trace({ ...types, ...rates }, (inputs) => {
      const [gradient] = grad(sum(mean(errors(inputs), [1, 2])), [read(weight)]);
      const next = add(mul(read(momentum), 0.9), add(gradient!, mul(read(weight), inputs.decay)));
      assign(momentum, next);
      assign(weight, sub(read(weight), mul(next, inputs.rate)));
      return {};
    }),
  );
  const measure = await device.compile(trace(types, (inputs) => ({ losses: mean(errors(inputs), [1, 2]) })));
  const feeds = (step: number) => {
    const { x, y } = examples(step);
    return { x: hostTensor("float32", [8, 4], x), y: hostTensor("float32", [8, 3], y) };
  };
  let trained = 0;
  const population = new StackedPopulation({
    device,
    variables: [weight, momentum],
    async step(step, values) {
      trained += values.length;
      const each = (name: string) =>
        hostTensor(
          "float32",
          [count, 1, 1],
          Float32Array.from(values, (of) => of[name] as number),
        );
      await program.run({ ...feeds(step), rate: each("learningRate"), decay: each("weightDecay") });
    },
    async evaluate() {
      return Array.from((await measure.run(feeds(1e6))).losses!.data as Float32Array, (loss) => (loss < 1e6 ? loss : Number.NaN));
    },
  });
  const slices = (member: number) =>
    [weight, momentum].map((v) => Array.from(device.read(v).data as Float32Array).slice(12 * member, 12 * (member + 1)));
  return { population, slices, trained: () => trained, close: () => device.dispose() };
}

/** The population with something done before and after each copy. */
const watching = (population: Population, around: Partial<Population>): Population =>
  new Proxy(population, { get: (target, name: keyof Population) => around[name] ?? (target[name] as () => void)?.bind(target) });

const task = (population: Population, further: Partial<PbtTask> = {}): PbtTask => ({
  population,
  space,
  steps,
  seed: 1,
  higherIsBetter: () => false,
  ...further,
});

describe("a population in one graph", () => {
  test("a copy has weights and moments of its source, bit for bit, and no other member changes; values differ by a factor or a draw", async () => {
    const { population, slices, trained, close } = await stacked();
    let copies = 0;
    const watched = watching(population, {
      async copy(from, to) {
        const before = [0, 1, 2, 3].map(slices);
        await population.copy(from, to);
        expect([0, 1, 2, 3].map(slices)).toEqual(before.map((own, member) => (member === to ? before[from] : own)));
        expect(before[from]).not.toEqual(before[to]);
        copies++;
      },
    });
    const {
      lineage,
      best,
      members: all,
      evaluations,
    } = await pbt({ ...options, explore: perturb({ resampleProbability: 0 }) }).search(task(watched));
    expect(copies).toBe(lineage.copies.length);
    expect(copies).toBe(3);
    expect(trained()).toBe(members * steps);
    for (const { oldValues, newValues } of lineage.copies)
      for (const name of Object.keys(space)) {
        const [old, now] = [oldValues[name] as number, newValues[name] as number];
        const { to } = space[name] as { to: number };
        expect([1.2 * old, 0.8 * old].some((value) => Math.abs(now - Math.min(to, value)) < 1e-12)).toBe(true);
      }
    const final = evaluations.at(-1)!.scores;
    expect(best).toMatchObject({ score: Math.min(...final), member: final.indexOf(Math.min(...final)) });
    expect(all.map(({ score }) => score)).toEqual([...final].sort((a, b) => a - b));
    await close();
  });

  test("the winner's schedule begins with a first member, covers all steps, and trained alone gives the winner", async () => {
    const { population, slices, close } = await stacked();
    const { lineage, members: all, best } = await pbt({ ...options, ready: 2, exploit: truncation(0.5) }).search(task(population));
    expect(lineage.copies.length).toBe(10);
    for (const { member, values } of all) {
      const schedule = scheduleOf(lineage, member);
      expect(schedule[0]!.values).toEqual(lineage.initial[schedule[0]!.member]);
      expect(schedule.map(({ from }) => from)).toEqual([0, ...schedule.slice(0, -1).map(({ to }) => to)]);
      expect(schedule.at(-1)).toMatchObject({ to: steps, member, values });
      const alone = await stacked(1, schedule[0]!.member);
      const score = await replay(schedule, alone.population);
      if (member === best.member) expect(score).toBeCloseTo(best.score, 6);
      // Products of matrices are computed in other parts alone.
      for (const [i, own] of alone.slices(0).entries())
        for (const [k, value] of own.entries()) expect(value).toBeCloseTo(slices(member)[i]![k]!, 4);
      await alone.close();
    }
    expect(policyLine(lineage.copies[0]!)).toEqual([
      String(lineage.copies[0]!.target),
      String(lineage.copies[0]!.source),
      2,
      2,
      lineage.copies[0]!.oldValues,
      lineage.copies[0]!.newValues,
    ]);
    await close();
  });

  test.each([1, 3, 5])(
    "a search that is stopped after %i evaluations and resumed ends as one that was not, bit for bit",
    async (evaluations) => {
      const whole = await stacked();
      const search = pbt({ ...options, ready: 2 });
      const expected = await search.search(task(whole.population, { directory: join(directory, "whole") }));
      const stopped = await stacked();
      let trained = 0;
      const killed = watching(stopped.population, {
        async train(values, steps) {
          // In the middle of the training that follows.
          await stopped.population.train(values, trained++ === evaluations ? 1 : steps);
          if (trained > evaluations) throw new Error("killed");
        },
      });
      const at = { directory: join(directory, "parts") };
      await expect(search.search(task(killed, at))).rejects.toThrow("killed");
      const resumed = await stacked();
      const known: boolean[] = [];
      const result = await search.search(
        task(resumed.population, { ...at, resume: true, onEvaluation: (report) => known.push(report.known) }),
      );
      expect(known.filter(Boolean)).toHaveLength(evaluations);
      expect(result).toEqual(expected);
      expect([0, 1, 2, 3].map(resumed.slices)).toEqual([0, 1, 2, 3].map(whole.slices));
      const policy = (name: string) => readFileSync(join(directory, name, "pbt_policy.jsonl"), "utf8");
      expect(policy("parts")).toBe(policy("whole"));
      await Promise.all([whole, stopped, resumed].map(({ close }) => close()));
    },
  );

  test("members that are lost are replaced; where all are, the search ends", async () => {
    const lost = (share: number): Population => ({
      train: async () => {},
      evaluate: async () => [0, 1, 2, 3].map((m) => (m < 4 * share ? Number.NaN : m)),
      copy: async () => {},
    });
    const { lineage } = await pbt({ ...options, ready: 6, exploit: truncation(0.5) }).search(task(lost(0.5)));
    expect(lineage.copies.map(({ target }) => target)).toEqual([0, 1]);
    await expect(pbt(options).search(task(lost(1)))).rejects.toThrow("no member can be measured any more after step 3");
  });

  test("a damaged record, another search and a directory in use are refused", async () => {
    const { population, close } = await stacked();
    await pbt(options).search(task(population, { directory }));
    await expect(pbt(options).search(task(population, { directory }))).rejects.toThrow("holds a search already");
    await expect(pbt({ ...options, ready: 6 }).search(task(population, { directory, resume: true }))).rejects.toThrow("as another search");
    await expect(pbt(options).search(task(population, { directory: join(directory, "no"), resume: true }))).rejects.toThrow(
      "no search to resume",
    );
    const forgetful: Population = { train: async () => {}, evaluate: async () => [], copy: async () => {} };
    await expect(pbt(options).search(task(forgetful, { directory: join(directory, "no") }))).rejects.toThrow("cannot be saved");
    await close();
  });

  test.each([
    [{ population: 0 }, "population"],
    [{ exploit: { rule: "best" } }, "exploit"],
    [{ quantile: 0.5 }, "quantile"],
    [{ explore: { rule: "perturb", factors: [] } }, "explore.factors"],
  ])("%j is refused", (wrong, name) => expect(() => pbt(wrong as never)).toThrow(name));

  test("evaluations that do not meet the copies are refused", async () => {
    await expect(pbt({ ...options, evaluateEvery: 2 }).search(task({} as Population))).rejects.toThrow("is no whole part of it");
  });
});

class Regression extends Module {
  readonly layer = new Linear(4, 3, { init: normal(new Random(5), 1) });
  override forward(x: Parameters<typeof matmul>[0]) {
    return this.layer.forward(x);
  }
}

const batches: ImmediateBatchSource = {
  batchesPerEpoch: 1000,
  batch(step) {
    const { x, y } = examples(step);
    const feeds = { x: hostTensor("float32", [8, 4], x), y: hostTensor("float32", [8, 3], y) };
    return { feeds, tokens: 8, examples: 8, description: `batch ${step}` };
  },
};

/** One part of a member with the trainer of every run. */
async function trained(values: Values, at: { directory: string; from?: string | undefined; until?: number }): Promise<number> {
  const model = new Regression().assignNames();
  const objective: Objective = {
    name: "regression",
    trace({ x, y }) {
      const error = sub(model.forward(x!), y!);
      return { total: sum(mul(error, error)), weight: fill([], 24) };
    },
  };
  const device = cpu({ threads: 1 });
  const { learningRate, weightDecay } = values as Record<"learningRate" | "weightDecay", number>;
  await train({
    model,
    objective,
    data: batches,
    device,
    optimizer: adamW({ learningRate, weightDecay: weightDecay + 1e-6 }),
    steps,
    pauseAt: at.until ?? steps,
    directory: at.directory,
    ...(at.from !== undefined && { branchFrom: at.from }),
  });
  const { loss } = await new Evaluator(device, objective).run({ ...batches, batchesPerEpoch: 1 });
  await device.dispose();
  return loss;
}

const stateOf = (run: string) => readFileSync(join(run, "checkpoints", `step-${steps}`, "state.safetensors"));

describe("a population of training runs", () => {
  const runs = (name: string) => new RunPopulation({ directory: join(directory, name), run: ({ values, ...at }) => trained(values, at) });
  const last = (name: string, member: number) => join(directory, name, `member-00${member}`, "part-002");

  test("where nobody copies, it is as many independent runs, bit for bit", async () => {
    const search = pbt({ ...options, ready: 4, exploit: never() });
    const { lineage, evaluations } = await search.search(task(runs("never")));
    expect(lineage.copies).toEqual([]);
    for (const [member, values] of lineage.initial.entries()) {
      const alone = join(directory, `alone-${member}`);
      expect(await trained(values, { directory: alone })).toBe(evaluations.at(-1)!.scores[member]);
      expect(stateOf(last("never", member)).equals(stateOf(alone))).toBe(true);
    }
  });

  test("a copy goes on from weights, moments and step of its source: the schedule trained alone gives every member, bit for bit", async () => {
    const search = pbt({ ...options, ready: 4, exploit: truncation(0.5) });
    const { lineage, members: all } = await search.search(task(runs("pbt")));
    expect(lineage.copies).toHaveLength(4);
    for (const { member, score } of all) {
      const name = `replay-${member}`;
      expect(await replay(scheduleOf(lineage, member), runs(name))).toBe(score);
      const parts = scheduleOf(lineage, member).length - 1;
      expect(stateOf(join(directory, name, "member-000", `part-00${parts}`)).equals(stateOf(last("pbt", member)))).toBe(true);
    }
  });

  test("resumed, it ends as if it had not been stopped", async () => {
    const search = pbt({ ...options, ready: 4, exploit: truncation(0.5) });
    const expected = await search.search(task(runs("whole")));
    const at = { directory: join(directory, "record") };
    let part = 0;
    const stopped = new RunPopulation({
      directory: join(directory, "parts"),
      async run({ values, ...run }) {
        if (run.part === 2 && part++ === 1) throw new Error("killed");
        return trained(values, run);
      },
    });
    await expect(search.search(task(stopped, at))).rejects.toThrow("killed");
    // Those that were under way; their directories are to be done again.
    await new Promise((resolve) => setTimeout(resolve, 500));
    for (const member of [0, 1, 2, 3]) rmSync(last("parts", member), { recursive: true, force: true });
    expect(await search.search(task(runs("parts"), { ...at, resume: true }))).toEqual(expected);
    for (const member of [0, 1, 2, 3]) expect(stateOf(last("parts", member)).equals(stateOf(last("whole", member)))).toBe(true);
  });

  test("a run without a checkpoint cannot be branched from", async () => {
    await expect(trained({ learningRate: 0.1, weightDecay: 0 }, { directory, from: join(directory, "none") })).rejects.toThrow(
      "none holds no finished checkpoint to branch from.",
    );
  });
});
