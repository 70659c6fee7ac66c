import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { writeSafetensors } from "../checkpoints/index.ts";
import { addDims, assign, EspalierError, read, symbol, type Tensor, trace, Variable } from "../graph/index.ts";
import { add, gather, linear, mul, sum, when } from "../ops/index.ts";
import { hostTensor } from "./device.ts";
import { jit } from "./jit.ts";
import { cpu } from "./node.ts";

const device = cpu({ threads: 1 });
const variable = (name: string, values: number[], options?: { frozen?: boolean }) =>
  new Variable(
    name,
    { dtype: "float32", shape: [values.length] },
    { kind: "memory", dtype: "float32", shape: [values.length], data: Float32Array.from(values) },
    options,
  );
const vector = (...values: number[]) => hostTensor("float32", [values.length], Float32Array.from(values));
const values = (v: Variable) => Array.from(device.read(v).data as Float32Array);

describe("variables", () => {
  test("a run reads the present value and leaves the next; storage keeps the initial one until it is persisted", async () => {
    const counter = variable("counter", [1, 10]);
    const program = await device.compile(
      trace({ x: { dtype: "float32", shape: [2] } }, ({ x }) => {
        const now = read(counter);
        assign(counter, add(now, x));
        return { now };
      }),
    );
    expect(Array.from((await program.run({ x: vector(1, 2) })).now!.data as Float32Array)).toEqual([1, 10]);
    expect(Array.from((await program.run({ x: vector(1, 2) })).now!.data as Float32Array)).toEqual([2, 12]);
    expect(values(counter)).toEqual([3, 14]);
    expect((counter.storage as { data: Float32Array }).data).toEqual(Float32Array.of(1, 10));
    device.persist(counter);
    expect((counter.storage as { data: Float32Array }).data).toEqual(Float32Array.of(3, 14));
  });

  test("a run whose outputs are refused changes nothing, though it wrote its buffers", async () => {
    const counter = variable("counter", [1]);
    const step = jit(device, ({ x }: Record<"x", Tensor>) => {
      const next = add(read(counter), x);
      assign(counter, next);
      return { next };
    });
    const finite = ({ next }: Readonly<Record<string, { data: ArrayLike<unknown> }>>) => Number.isFinite(next!.data[0]);
    await step({ x: vector(2) }, {}, finite);
    expect((await step({ x: vector(Number.NaN) }, {}, finite)).next.data[0]).toBeNaN();
    expect(values(counter)).toEqual([3]);
    await step({ x: vector(4) }, {}, finite);
    expect(values(counter)).toEqual([7]);
  });

  test("two programs share a variable: what one writes the other reads", async () => {
    const shared = variable("shared", [5]);
    const writer = await device.compile(
      trace({}, () => {
        assign(shared, mul(read(shared), 2));
        return {};
      }),
    );
    const reader = await device.compile(trace({}, () => ({ value: read(shared) })));
    await writer.run();
    expect(Array.from((await reader.run()).value!.data as Float32Array)).toEqual([10]);
    device.write(shared, Float32Array.of(7));
    expect(Array.from((await reader.run()).value!.data as Float32Array)).toEqual([7]);
  });

  test("a variable that becomes another one's old value sees the value before the run", async () => {
    const [a, b] = [variable("a", [1]), variable("b", [2])];
    const swap = await device.compile(
      trace({}, () => {
        const [oldA, oldB] = [read(a), read(b)];
        assign(a, oldB);
        assign(b, oldA);
        return {};
      }),
    );
    await swap.run();
    expect([values(a), values(b)]).toEqual([[2], [1]]);
  });

  test("when a run fails, nothing has changed", async () => {
    const state = variable("state", [1, 2, 3]);
    const program = await device.compile(
      trace({ at: { dtype: "int64", shape: [3] } }, ({ at }) => {
        assign(state, gather(read(state), at));
        return {};
      }),
    );
    const failure = await program.run({ at: hostTensor("int64", [3], BigInt64Array.of(0n, 99n, 1n)) }).catch((e: unknown) => e);
    expect(failure).toBeInstanceOf(EspalierError);
    expect(failure).toMatchObject({ code: "run-failed", cause: expect.any(Error) });
    expect((failure as Error).message).toMatch(/failed in Gather \(Gather\): indices element out of data bounds, idx=99/);
    expect(values(state)).toEqual([1, 2, 3]);
  });

  test("a program that updates much returns and keeps the same numbers, without a copy of every variable", async () => {
    const n = 1_500_000;
    const large = new Variable("large", { dtype: "float32", shape: [n] }, () => ({
      kind: "memory",
      dtype: "float32",
      shape: [n],
      data: new Float32Array(n).fill(1),
    }));
    const program = await device.compile(
      trace({ by: { dtype: "float32", shape: [] } }, ({ by }) => {
        const next = mul(read(large), by);
        assign(large, next);
        return { total: sum(next), next, same: read(large) };
      }),
    );
    for (let i = 1; i <= 3; i++) {
      const { total, next, same } = await program.run({ by: hostTensor("float32", [], Float32Array.of(2)) });
      expect([total!.data[0], next!.data[n - 1], same!.data[0], device.read(large).data[n - 1]]).toEqual([
        n * 2 ** i,
        2 ** i,
        2 ** (i - 1),
        2 ** i,
      ]);
    }
    const before = process.memoryUsage().arrayBuffers;
    await program.run({ by: hostTensor("float32", [], Float32Array.of(0.5)) });
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(3 * 4 * n);
    await expect(program.run({ by: hostTensor("float32", [2], Float32Array.of(1, 2)) })).rejects.toThrow(/Input "by"/);
  });

  test("assigning another shape, or to a frozen variable, is refused while tracing", () => {
    const [v, frozen] = [variable("v", [1, 2]), variable("f", [1], { frozen: true })];
    const tracingAssign = (target: Variable, value: () => Tensor) =>
      trace({}, () => {
        assign(target, value());
        return {};
      });
    expect(() => tracingAssign(v, () => sum(read(v)))).toThrow(/Cannot assign float32 \[\] to variable "v" of float32 \[2\]/);
    expect(() => tracingAssign(frozen, () => read(frozen))).toThrow(/"f" is frozen/);
  });

  test("a storage given after the device has read the variable counts, and what is persisted stays", async () => {
    const v = variable("v", [1]);
    const program = await device.compile(
      trace({}, () => {
        const now = read(v);
        assign(v, add(now, 1));
        return { now };
      }),
    );
    const next = async () => (await program.run()).now!.data[0];
    expect([await next(), await next()]).toEqual([1, 2]);
    v.storage = { kind: "memory", dtype: "float32", shape: [1], data: Float32Array.of(50) };
    expect(values(v)).toEqual([50]);
    expect([await next(), await next()]).toEqual([50, 51]);
    // A storage that is newer than the buffers is not overwritten by them.
    v.storage = { kind: "memory", dtype: "float32", shape: [1], data: Float32Array.of(7) };
    device.persist(v);
    expect((v.storage as { data: Float32Array }).data).toEqual(Float32Array.of(7));
    expect(await next()).toBe(7);
    const buffers = device.buffers(v);
    device.persist(v);
    expect(device.buffers(v)).toBe(buffers);
    expect([await next(), (v.storage as { data: Float32Array }).data[0]]).toEqual([8, 8]);
    await program.dispose();
  });

  test("a storage given while a run is under way is not overwritten by it", async () => {
    const v = variable("v", [1]);
    const program = await device.compile(
      trace({}, () => {
        assign(v, add(read(v), 1));
        return {};
      }),
    );
    const run = program.run();
    await Promise.resolve();
    v.storage = { kind: "memory", dtype: "float32", shape: [1], data: Float32Array.of(50) };
    await run;
    expect(values(v)).toEqual([50]);
    await program.dispose();
  });

  test("assigning within a branch of a gate is refused while tracing", () => {
    const v = variable("v", [1]);
    const inBranch = () =>
      trace({ gate: { dtype: "bool", shape: [] } }, ({ gate }) => {
        const set = () => {
          assign(v, mul(read(v), 2));
          return [read(v)];
        };
        return { y: when(gate, set, () => [read(v)])[0]! };
      });
    expect(inBranch).toThrow(EspalierError);
    expect(inBranch).toThrow(/"v" is assigned within a branch of when.*assign the result of when outside/);
  });

  test("writing to a frozen variable is refused", () => {
    const frozen = variable("f", [1], { frozen: true });
    expect(() => device.write(frozen, Float32Array.of(2))).toThrow(/Variable "f" is frozen/);
    expect(values(frozen)).toEqual([1]);
  });

  test("writing another number of values is refused", () => {
    expect(() => device.write(variable("w", [1, 2]), Float32Array.of(1))).toThrow(/"w" \[2\] holds 2 elements, got 1/);
  });
});

describe("what a program is fed", () => {
  const program = () => device.compile(trace({ x: { dtype: "float32", shape: [2] } }, ({ x }) => ({ y: mul(x, 2) })));

  test("a missing input is named", async () => {
    await expect((await program()).run({ z: vector(1, 2) })).rejects.toThrow(/needs the input "x" \(float32 \[2\]\); it got z/);
  });

  test("another type, shape or number of elements is refused", async () => {
    const p = await program();
    await expect(p.run({ x: vector(1, 2, 3) })).rejects.toThrow(/Input "x" must be float32 \[2\], got float32 \[3\]/);
    await expect(p.run({ x: hostTensor("int32", [2], Int32Array.of(1, 2)) })).rejects.toThrow(/got int32 \[2\]/);
    await expect(p.run({ x: hostTensor("float32", [2], Float32Array.of(1)) })).rejects.toThrow(/needs 2 elements, got 1/);
  });
});

describe("named dimensions", () => {
  const [batch, past, time] = [symbol("batch"), symbol("past"), symbol("time")];
  const rows = (n: number, m: number) => hostTensor("float32", [n, m], new Float32Array(n * m).fill(1));

  test("two inputs that share one must agree", async () => {
    const program = await device.compile(
      trace({ a: { dtype: "float32", shape: [batch, 2] }, b: { dtype: "float32", shape: [2, batch] } }, ({ a, b }) => ({
        y: add(sum(a), sum(b)),
      })),
    );
    expect((await program.run({ a: rows(3, 2), b: rows(2, 3) })).y!.data[0]).toBe(12);
    await expect(program.run({ a: rows(3, 2), b: rows(2, 4) })).rejects.toThrow(
      /Axis 1 of the input "b" has the size batch, which must be 3 \(batch is 3 by axis 0 of the input "a"\), but it is 4/,
    );
    await program.dispose();
  });

  test("and one that is computed from others must have their value", async () => {
    const types = {
      all: { dtype: "float32", shape: [addDims(past, time), 1] },
      old: { dtype: "float32", shape: [past, 1] },
      now: { dtype: "float32", shape: [time, 1] },
    } as const;
    const program = await device.compile(trace(types, (i) => ({ y: add(add(sum(i.all), sum(i.old)), sum(i.now)) })));
    expect((await program.run({ all: rows(5, 1), old: rows(3, 1), now: rows(2, 1) })).y!.data[0]).toBe(10);
    await expect(program.run({ all: rows(6, 1), old: rows(3, 1), now: rows(2, 1) })).rejects.toThrow(
      /input "all" has the size past \+ time, which must be 5 \(past is 3 by axis 0 of the input "old", time is 2 by axis 0 of the input "now"\), but it is 6/,
    );
    await program.dispose();
  });
});

describe("jit", () => {
  test("compiles once per shape and drops the shape unused for longest", async () => {
    let traced = 0;
    const double = jit(
      device,
      ({ x }: { x: Tensor }) => {
        traced++;
        return { y: mul(x, 2) };
      },
      { capacity: 2 },
    );
    for (const length of [1, 2, 1, 2])
      expect((await double({ x: vector(...Array<number>(length).fill(3)) })).y.data).toEqual(new Float32Array(length).fill(6));
    expect([traced, double.size]).toEqual([2, 2]);
    await double({ x: vector(1, 2, 3) });
    await double({ x: vector(1, 1) });
    expect([traced, double.size]).toEqual([3, 2]);
    await double({ x: vector(1) });
    expect(traced).toBe(4);
    await double.dispose();
  });
});

describe("weights in files", () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-mapped-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test("a frozen variable is mapped from its place in a safetensors file, small or large, and may be read by several programs", async () => {
    const large = Float32Array.from({ length: 200 * 300 }, (_, i) => Math.sin(i));
    const file = writeSafetensors(join(directory, "w.safetensors"), {
      small: { kind: "memory", dtype: "float32", shape: [2], data: Float32Array.of(3, 4) },
      large: { kind: "memory", dtype: "float32", shape: [200, 300], data: large },
    });
    const [w, s] = ["large", "small"].map(
      (name) => new Variable(name, file.tensors.get(name)!, file.tensors.get(name)!, { frozen: true }),
    ) as [Variable, Variable];
    const x = Float32Array.from({ length: 300 }, (_, i) => i / 300);
    const expected = Array.from({ length: 200 }, (_, o) => x.reduce((total, v, i) => total + v * large[o * 300 + i]!, 0));
    for (let i = 0; i < 2; i++) {
      const program = await device.compile(
        trace({ x: { dtype: "float32", shape: [1, 300] } }, (inputs) => ({ y: linear(inputs.x, read(w)), s: read(s) })),
      );
      const out = await program.run({ x: hostTensor("float32", [1, 300], x) });
      expect(Math.max(...expected.map((v, o) => Math.abs(v - Number(out.y!.data[o]))))).toBeLessThan(1e-4);
      expect(out.s!.data).toEqual(Float32Array.of(3, 4));
      await program.dispose();
    }
  });
});
