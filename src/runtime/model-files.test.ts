import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openSafetensors, writeSafetensors } from "../checkpoints/index.ts";
import { read, trace, Variable } from "../graph/index.ts";
import { sum } from "../ops/index.ts";
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
