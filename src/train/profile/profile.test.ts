import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { z } from "zod";
import { LlamaForCausalLM, llamaConfigSchema } from "../../models/families/llama.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { causalLanguageModel } from "../objectives/index.ts";
import { adamW } from "../optimizers/index.ts";
import { train } from "../trainer.ts";
import { operationsOf, StepProfiler, workOf } from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "espalier-profile-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const config = llamaConfigSchema.parse({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 16,
});

async function profiledRun(steps: number, options: { from?: number; to?: number } = {}) {
  const device = cpu({ threads: 1 });
  const directory = mkdtempSync(join(scratch, "run-"));
  const profiler = new StepProfiler(device, { directory, ...options });
  const ids = hostTensor(
    "int64",
    [2, 8],
    BigInt64Array.from({ length: 16 }, (_, i) => BigInt(i)),
  );
  const model = new LlamaForCausalLM(config);
  const seen: number[] = [];
  await train({
    model,
    objective: causalLanguageModel(model),
    data: {
      batchesPerEpoch: 1,
      batch: async () => ({ feeds: { ids, targets: ids }, tokens: 16, examples: 2, description: "numbers" }),
    },
    device,
    optimizer: adamW({ learningRate: 1e-3 }),
    steps,
    onStep: (report) => {
      seen.push(report.step);
      profiler.step(report);
    },
  });
  const files = await profiler.finish();
  await device.dispose();
  return { files, seen };
}

/** The cells of the rows of a section of the table. */
function rows(table: string, heading: string): string[][] {
  const section = table.split(/^## /m).find((s) => s.startsWith(heading))!;
  return section
    .split("\n")
    .filter((line) => line.startsWith("| "))
    .slice(2)
    .map((line) =>
      line
        .split("|")
        .map((cell) => cell.trim())
        .slice(1, -1),
    );
}

test("a run's profile: the passes, modules and operators add up to the session, and the run goes on", async () => {
  const { files, seen } = await profiledRun(9);
  expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const table = readFileSync(files!.table, "utf8");
  expect(table).toMatch(/^# Profile of steps 3 to 7$/m);
  const passes = new Map(rows(table, "Passes").map(([name, ms]) => [name!, Number(ms)]));
  const session = passes.get("in ONNX Runtime")!;
  const operators = passes.get("forward")! + passes.get("backward")! + passes.get("optimizer")!;
  for (const pass of ["forward", "backward", "optimizer", "between operators"]) expect(passes.get(pass)).toBeGreaterThan(0);
  expect(operators + passes.get("between operators")!).toBeCloseTo(session, 1);
  const total = (heading: string, keep: (name: string) => boolean) =>
    rows(table, heading)
      .filter(([name]) => keep(name!))
      .reduce((n, [, , ms]) => n + Number(ms), 0);
  // Each row is rounded to a hundredth of a millisecond.
  expect(Math.abs(total("Operators", () => true) - operators)).toBeLessThan(0.3);
  expect(Math.abs(total("Modules", (name) => !name.includes(".")) - operators)).toBeLessThan(0.1);
  const modules = rows(table, "Modules").map(([name]) => name);
  expect(modules).toContain("`model.layers.*.mlp.gate_proj`");
  expect(modules).toContain("`loss`");
});

test("the trace is one that Perfetto opens: named tracks, whose spans lie side by side or one within another", async () => {
  const { files } = await profiledRun(5, { from: 2, to: 3 });
  const meta = z.strictObject({
    ph: z.literal("M"),
    pid: z.int(),
    tid: z.int(),
    name: z.enum(["process_name", "thread_name", "thread_sort_index"]),
    args: z.record(z.string(), z.union([z.string(), z.int()])),
  });
  const span = z.strictObject({
    ph: z.literal("X"),
    pid: z.int(),
    tid: z.int().positive(),
    name: z.string().min(1),
    cat: z.string(),
    ts: z.number().nonnegative(),
    dur: z.number().nonnegative(),
    args: z.record(z.string(), z.unknown()),
  });
  const schema = z.strictObject({ traceEvents: z.array(z.union([meta, span])), displayTimeUnit: z.literal("ms") });
  const { traceEvents } = schema.parse(JSON.parse(readFileSync(files!.trace, "utf8")));
  const names = new Map(traceEvents.flatMap((e) => (e.name === "thread_name" ? [[e.tid, e.args.name as string] as const] : [])));
  const spans = traceEvents.filter((e) => e.ph === "X");
  const on = (track: string) => spans.filter((e) => names.get(e.tid) === track).sort((a, b) => a.ts - b.ts || b.dur - a.dur);
  expect(on("steps").map((e) => e.name)).toEqual(["step 2", "step 3"]);
  expect(on("trainer").filter((e) => e.name === "session")).toHaveLength(2);
  for (const track of ["forward", "backward", "optimizer"]) expect(on(track).length).toBeGreaterThan(10);
  for (const track of names.values()) {
    const open: number[] = [];
    for (const { ts, dur } of on(track)) {
      // To a microsecond, in which ONNX Runtime counts.
      while (open.length > 0 && open.at(-1)! <= ts + 1) open.pop();
      if (open.length > 0) expect(ts + dur).toBeLessThanOrEqual(open.at(-1)! + 1);
      open.push(ts + dur);
    }
  }
});

test("a run that ends early is profiled as far as it went, and not at all before the first of the steps", async () => {
  const { files } = await profiledRun(4);
  expect(readFileSync(files!.table, "utf8")).toMatch(/^# Profile of steps 3 to 4$/m);
  expect((await profiledRun(2)).files).toBeUndefined();
});

test("steps that cannot be are refused", () => {
  expect(() => new StepProfiler(cpu(), { directory: scratch, from: 5, to: 4 })).toThrow(/got 5 to 4/);
});

const run = (name: string, operator = "Add", inputs: number[][] = [], outputs: number[][] = []) => ({
  name,
  operator,
  start: 0,
  milliseconds: 1,
  own: 1,
  inputs,
  outputs,
});

test.each([
  ["model.layers.3.mlp/Silu/Mul_7", "forward", "model.layers.3.mlp"],
  ["model.layers.3.mlp/backward/Mul", "backward", "model.layers.3.mlp"],
  ["backward/Add_2", "backward", "(no module)"],
  ["Add", "forward", "(no module)"],
  ["optimizer/clip/ReduceSumSquare", "optimizer", "optimizer"],
  ["optimizer/model.norm.weight/Mul", "optimizer", "model.norm"],
  ["optimizer/model.norm.weight+4/Mul", "optimizer", "optimizer"],
])("%s is of the %s pass of %s", (name, phase, module) => {
  expect(workOf(run(name))).toMatchObject({ phase, module });
});

test("operations of products, transposed or not, and of convolutions", () => {
  expect(
    operationsOf(
      run(
        "",
        "MatMul",
        [
          [2, 3, 4],
          [4, 5],
        ],
        [[2, 3, 5]],
      ),
    ),
  ).toBe(2 * 2 * 3 * 4 * 5);
  expect(
    operationsOf(
      run(
        "",
        "FusedMatMul",
        [
          [2, 4, 3],
          [2, 4, 5],
        ],
        [[2, 3, 5]],
      ),
    ),
  ).toBe(2 * 2 * 3 * 4 * 5);
  expect(
    operationsOf(
      run(
        "",
        "Conv",
        [
          [1, 3, 8, 8],
          [16, 3, 2, 2],
        ],
        [[1, 16, 4, 4]],
      ),
    ),
  ).toBe(2 * 16 * 16 * 3 * 4);
  expect(
    operationsOf(
      run(
        "",
        "Mul",
        [
          [2, 3],
          [2, 3],
        ],
        [[2, 3]],
      ),
    ),
  ).toBe(0);
});
