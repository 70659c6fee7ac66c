import { afterEach, describe, expect, test } from "vitest";
import { assign, read, type Tensor, type TensorType, trace, Variable } from "../graph/index.ts";
import { add, gather, mul, sum } from "../ops/index.ts";
import { hostTensor } from "./device.ts";
import { jit, jitTraced } from "./jit.ts";
import { cpu } from "./node.ts";

const device = cpu({ threads: 1 });
const vector = (...values: number[]) => hostTensor("float32", [values.length], Float32Array.from(values));
const zeros = (name: string, n: number) =>
  new Variable(name, { dtype: "float32", shape: [n] }, { kind: "memory", dtype: "float32", shape: [n], data: new Float32Array(n) });
const counting = (counter: Variable) =>
  trace({}, () => {
    const next = add(read(counter), 1);
    assign(counter, next);
    return { next: sum(next) };
  });

describe("runs of one device follow one another", () => {
  test("no update is lost, and each run sees the one before", async () => {
    const counter = zeros("counter", 1);
    const program = await device.compile(counting(counter));
    const seen = await Promise.all(Array.from({ length: 6 }, () => program.run()));
    expect(seen.map((out) => out.next!.data[0])).toEqual([1, 2, 3, 4, 5, 6]);
    expect(device.read(counter).data[0]).toBe(6);
    await program.dispose();
  });

  test("of another program too: a reader never sees a buffer that is being written", async () => {
    const n = 10_000;
    const state = zeros("state", n);
    const writer = await device.compile(counting(state));
    const reader = await device.compile(trace({}, () => ({ now: read(state) })));
    const runs = Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? writer.run() : reader.run()));
    const reads = (await Promise.all(runs)).filter((_, i) => i % 2 === 1).map((out) => new Set(out.now!.data as Float32Array));
    expect(reads).toEqual(Array.from({ length: 10 }, (_, i) => new Set([i + 1])));
    await Promise.all([writer.dispose(), reader.dispose()]);
  });

  test("one that fails does not stop the next", async () => {
    const counter = zeros("counter", 3);
    const program = await device.compile(
      trace({ at: { dtype: "int64", shape: [3] } }, ({ at }) => {
        assign(counter, add(gather(read(counter), at), 1));
        return {};
      }),
    );
    const at = (i: bigint) => ({ at: hostTensor("int64", [3], BigInt64Array.of(i, i, i)) });
    const results = await Promise.allSettled([program.run(at(0n)), program.run(at(9n)), program.run(at(1n))]);
    expect(results.map((r) => r.status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(Array.from(device.read(counter).data as Float32Array)).toEqual([2, 2, 2]);
    await program.dispose();
  });

  test("disposing waits for the runs asked for before, twice does no harm, and a run afterwards says so", async () => {
    const counter = zeros("counter", 1);
    const program = await device.compile(counting(counter));
    const runs = [program.run(), program.run()];
    await Promise.all([program.dispose(), program.dispose(), ...runs]);
    expect(device.read(counter).data[0]).toBe(2);
    await expect(program.run()).rejects.toMatchObject({ name: "EspalierError", code: "disposed" });
  });
});

describe("jit", () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  afterEach(async () => {
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(unhandled.splice(0)).toEqual([]);
  });

  test("a program that leaves while calls use it, or wait for it, is disposed of after them", async () => {
    const double = jit(device, ({ x }: { x: Tensor }) => ({ y: mul(x, 2) }), { capacity: 1 });
    const lengths = [1, 2, 3, 1, 2, 3, 1, 1];
    const calls = lengths.map((n) => double({ x: vector(...Array<number>(n).fill(3)) }));
    expect((await Promise.all(calls)).map((out) => out.y.data)).toEqual(lengths.map((n) => new Float32Array(n).fill(6)));
    expect(double.size).toBe(1);
    const last = double({ x: vector(1, 1, 1, 1) });
    await Promise.all([double.dispose(), last]);
    expect(double.size).toBe(0);
  });

  test("a compilation that fails and leaves is reported to its caller alone", async () => {
    const failing = cpu({ threads: 1 });
    const open = failing.platform.open;
    failing.platform.open = async (traced, encodeWith) => {
      if (traced.graph.inputs.get("x")!.shape[0] === 1) throw new Error("no session");
      return open(traced, encodeWith);
    };
    const double = jit(failing, ({ x }: { x: Tensor }) => ({ y: mul(x, 2) }), { capacity: 1 });
    const [one, two] = await Promise.allSettled([double({ x: vector(1) }), double({ x: vector(1, 2) })]);
    expect([one.status, two.status]).toEqual(["rejected", "fulfilled"]);
    await expect(double({ x: vector(1) })).rejects.toThrow("no session");
    await double.dispose();
    await failing.dispose();
  });

  test("of whole programs: updates, and inputs that do not choose the program", async () => {
    const total = zeros("total", 1);
    let traced = 0;
    const step = jitTraced(device, (types: Readonly<Record<"x", TensorType>>) => {
      traced++;
      return trace({ ...types, rate: { dtype: "float32", shape: [] } }, ({ x, rate }) => {
        const next = add(read(total), mul(sum(x), rate));
        assign(total, next);
        return { next };
      });
    });
    const rate = (value: number) => ({ rate: hostTensor("float32", [], Float32Array.of(value)) });
    await step({ x: vector(1, 2) }, rate(1));
    await step({ x: vector(1, 2) }, rate(10));
    await step({ x: vector(1) }, rate(100));
    expect([traced, step.size, device.read(total).data[0]]).toEqual([2, 2, 133]);
    await step.dispose();
  });
});
