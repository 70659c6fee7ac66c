import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openSafetensors, writeSafetensors } from "../checkpoints/index.ts";
import { assign, converted, type MemoryStorage, read, type Storage, type TypedArray, trace, Variable } from "../graph/index.ts";
import { mul, sum } from "../ops/index.ts";
import { cpu } from "./node.ts";
import { makeScratch, removeScratch, scratchPrefix } from "./scratch.ts";

const length = 50_000; // large enough for a file of its own
const filled = (value: number) =>
  ({ kind: "memory", dtype: "float32", shape: [length], data: new Float32Array(length).fill(value) }) as const;
const sumOf = (v: Variable) => trace({}, () => ({ total: sum(read(v)) }));

// Scratch directories go where TMPDIR says: a place of this test alone.
let place: string;
const systemTemporary = process.env.TMPDIR;
beforeEach(() => {
  place = mkdtempSync(join(tmpdir(), "espalier-scratch-test-"));
  process.env.TMPDIR = place;
});
afterEach(() => {
  if (systemTemporary === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = systemTemporary;
  rmSync(place, { recursive: true, force: true });
});
const scratchDirectories = () => readdirSync(place).filter((name) => name.startsWith(".espalier-"));
const scratchFiles = () => scratchDirectories().flatMap((d) => readdirSync(join(place, d)));

describe("weights of frozen variables", () => {
  test("a file replaced at the same path gives its new values", async () => {
    const device = cpu({ threads: 1 });
    const path = join(place, "w.safetensors");
    const totals: number[] = [];
    const programs = [];
    for (const value of [1, 2]) {
      writeSafetensors(join(place, "next"), { w: filled(value) });
      renameSync(join(place, "next"), path);
      const storage = openSafetensors(path).tensors.get("w")!;
      const program = await device.compile(sumOf(new Variable("w", storage, storage, { frozen: true })));
      programs.push(program);
      totals.push((await program.run()).total!.data[0] as number);
    }
    expect(totals).toEqual([length, 2 * length]);
    expect(scratchFiles().length).toBe(2);
    // The program compiled first keeps what it maps.
    expect((await programs[0]!.run()).total!.data[0]).toBe(length);
    await device.dispose();
    expect(scratchDirectories()).toEqual([]);
  });

  test("files of arrays in memory are shared by programs and gone with the last of them", async () => {
    const device = cpu({ threads: 1 });
    const shared = new Variable("w", { dtype: "float32", shape: [length] }, filled(1), { frozen: true });
    const [a, b] = [await device.compile(sumOf(shared)), await device.compile(sumOf(shared))];
    expect(scratchFiles().length).toBe(1);
    await a.dispose();
    expect(scratchFiles().length).toBe(1);
    expect((await b.run()).total!.data[0]).toBe(length);
    await b.dispose();
    expect(scratchFiles()).toEqual([]);
    for (let i = 0; i < 5; i++) {
      const program = await device.compile(sumOf(new Variable("w", { dtype: "float32", shape: [length] }, filled(i), { frozen: true })));
      expect((await program.run()).total!.data[0]).toBe(i * length);
      await program.dispose();
    }
    expect(scratchFiles()).toEqual([]);
    await device.dispose();
  });

  test("disposing of the device disposes of its programs and removes what they left; it may be used again", async () => {
    const device = cpu({ threads: 1 });
    const w = new Variable("w", { dtype: "float32", shape: [length] }, filled(3), { frozen: true });
    const program = await device.compile(sumOf(w));
    expect(scratchDirectories().length).toBe(1);
    await device.dispose();
    expect(scratchDirectories()).toEqual([]);
    await expect(program.run()).rejects.toMatchObject({ code: "disposed" });
    const again = await device.compile(sumOf(w));
    expect((await again.run()).total!.data[0]).toBe(3 * length);
    await device.dispose();
  });

  test("a storage that a frozen variable is given later counts for programs compiled later", async () => {
    const device = cpu({ threads: 1 });
    const w = new Variable("w", { dtype: "float32", shape: [length] }, filled(1), { frozen: true });
    const before = await device.compile(sumOf(w));
    w.storage = filled(2);
    const after = await device.compile(sumOf(w));
    expect([(await before.run()).total!.data[0], (await after.run()).total!.data[0]]).toEqual([length, 2 * length]);
    await device.dispose();
  });
});

describe("weights stored in another float type", () => {
  // 1.5 and -2 are exact in every float type.
  const bits = { float16: [0x3e00, 0xc000], bfloat16: [0x3fc0, 0xc000] } as const;
  const stored = (dtype: "float16" | "bfloat16" | "float64"): MemoryStorage => {
    const pair = dtype === "float64" ? [1.5, -2] : bits[dtype];
    const data = dtype === "float64" ? new Float64Array(length) : new Uint16Array(length);
    return { kind: "memory", dtype, shape: [length], data: data.map((_, i) => pair[i % 2]!) as TypedArray };
  };
  const total = -0.25 * length;
  const inFile = (storage: MemoryStorage): Storage => {
    const path = join(place, `${storage.dtype}.safetensors`);
    if (!existsSync(path)) writeSafetensors(path, { w: storage });
    return openSafetensors(path).tensors.get("w")!;
  };
  const lazy = (): Storage => ({
    kind: "lazy",
    dtype: "float32",
    shape: [length],
    load: () => Float32Array.from({ length }, (_, i) => (i % 2 ? -2 : 1.5)),
  });
  const kinds: [string, () => Storage][] = [
    ["float16", () => inFile(stored("float16"))],
    ["bfloat16", () => inFile(stored("bfloat16"))],
    ["float64", () => inFile(stored("float64"))],
    ["bfloat16 in memory", () => stored("bfloat16")],
    ["lazy", lazy],
    ["lazy, rounded", () => converted(lazy(), "bfloat16")],
  ];

  test.each(kinds)("%s: a frozen variable is a constant, a trainable one moves on; both read as float32", async (_, make) => {
    const device = cpu({ threads: 1 });
    const frozen = new Variable("frozen", { dtype: "float32", shape: [length] }, make(), { frozen: true });
    const trained = new Variable("trained", { dtype: "float32", shape: [length] }, make());
    const program = await device.compile(
      trace({}, () => {
        assign(trained, mul(read(trained), 2));
        return { frozen: sum(read(frozen)), trained: sum(read(trained)) };
      }),
    );
    const run = async () => Object.values(await program.run()).map((t) => t.data[0]);
    expect(await run()).toEqual([total, total]);
    expect(await run()).toEqual([total, 2 * total]);
    expect(device.read(frozen)).toMatchObject({ dtype: "float32", shape: [length] });
    expect(Array.from(device.read(frozen).data.slice(0, 3) as Float32Array)).toEqual([1.5, -2, 1.5]);
    device.persist(trained);
    expect(trained.storage).toMatchObject({ kind: "memory", dtype: "float32" });
    expect((trained.storage as MemoryStorage).data[0]).toBe(6);
    expect(scratchFiles().length).toBe(1);
    await device.dispose();
    expect(scratchDirectories()).toEqual([]);
  });

  test("small ones are written into the model", async () => {
    const device = cpu({ threads: 1 });
    const storage: MemoryStorage = { kind: "memory", dtype: "bfloat16", shape: [2], data: Uint16Array.from(bits.bfloat16) };
    const program = await device.compile(sumOf(new Variable("w", { dtype: "float32", shape: [2] }, storage, { frozen: true })));
    expect((await program.run()).total!.data[0]).toBe(-0.5);
    expect(scratchFiles()).toEqual([]);
    await device.dispose();
  });

  test("sessions share one widened file, of a checkpoint that was opened twice too; it stays for later ones", async () => {
    const device = cpu({ threads: 1 });
    // Held here, so that the storages live on.
    const variables = [1, 2].map(
      () => new Variable("w", { dtype: "float32", shape: [length] }, inFile(stored("bfloat16")), { frozen: true }),
    );
    const programs = await Promise.all([variables[0]!, variables[0]!, variables[1]!].map((v) => device.compile(sumOf(v))));
    expect(scratchFiles().length).toBe(1);
    const [name] = scratchFiles();
    for (const p of programs) expect((await p.run()).total!.data[0]).toBe(total);
    for (const p of programs) await p.dispose();
    const again = await device.compile(sumOf(variables[1]!));
    expect((await again.run()).total!.data[0]).toBe(total);
    expect(scratchFiles()).toEqual([name]);
    await device.dispose();
    expect(scratchDirectories()).toEqual([]);
  });

  test("a lazy storage is computed once for all sessions", async () => {
    const device = cpu({ threads: 1 });
    let calls = 0;
    const data = new Float32Array(length).fill(1);
    const storage: Storage = {
      kind: "lazy",
      dtype: "float32",
      shape: [length],
      load: () => {
        calls++;
        return data;
      },
    };
    const v = new Variable("w", { dtype: "float32", shape: [length] }, storage, { frozen: true });
    for (let i = 0; i < 3; i++) expect((await (await device.compile(sumOf(v))).run()).total!.data[0]).toBe(length);
    expect(calls).toBe(1);
    await device.dispose();
  });
});

describe("weights held in a 16-bit type", () => {
  const path = () => join(place, "w.safetensors");
  const narrow = (): Storage => {
    writeSafetensors(path(), { w: { kind: "memory", dtype: "bfloat16", shape: [length], data: new Uint16Array(length).fill(0x3fc0) } });
    return openSafetensors(path()).tensors.get("w")!;
  };
  const held = (storage: Storage, dtype: "bfloat16" | "float16") => {
    const v = new Variable("w", { dtype: "float32", shape: [length] }, storage, { frozen: true });
    v.constantDtype = dtype;
    return v;
  };

  test("are mapped from the checkpoint where it has that type, else written once", async () => {
    const device = cpu({ threads: 1 });
    const mapped = await device.compile(sumOf(held(narrow(), "bfloat16")));
    expect((await mapped.run()).total!.data[0]).toBe(1.5 * length);
    const [link] = scratchFiles();
    expect(statSync(join(place, scratchDirectories()[0]!, link!)).ino).toBe(statSync(path()).ino);
    const written = await device.compile(sumOf(held(filled(1.001), "bfloat16")));
    expect((await written.run()).total!.data[0]).toBe(length);
    const other = scratchFiles().filter((name) => name !== link);
    expect(other.map((name) => statSync(join(place, scratchDirectories()[0]!, name)).size)).toEqual([2 * length]);
    await device.dispose();
  });
});

describe("scratch directories", () => {
  test("those of dead processes of this machine are removed, no others", () => {
    const dead = spawnSync(process.execPath, ["-e", ""]).pid;
    const names = {
      abandoned: `${scratchPrefix()}${dead}-abc`,
      running: `${scratchPrefix()}${process.ppid}-abc`,
      otherMachine: `.espalier-${"0".repeat(12)}-${dead}-abc`,
      unknown: `.espalier-${dead}-abc`,
    };
    for (const name of Object.values(names)) mkdirSync(join(place, name));
    const made = makeScratch(place)!;
    expect(Object.entries(names).flatMap(([what, name]) => (existsSync(join(place, name)) ? [what] : []))).toEqual([
      "running",
      "otherMachine",
      "unknown",
    ]);
    removeScratch(made);
    expect(existsSync(made)).toBe(false);
  });

  test("none where none can be made", () => expect(makeScratch(join(place, "absent"))).toBeUndefined());
});
