import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { trace } from "../../graph/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { decodeBlocks, dynamicTable, encodeBlocks } from "./dynamic-code.ts";

type Coded = { table: number[]; codes: number[]; scales: number[] };
const { quantize } = (
  JSON.parse(readFileSync("tests/fixtures/optimizers.json", "utf8")) as { eightBit: { quantize: Record<"signed" | "unsigned", Coded> } }
).eightBit;
const device = cpu({ threads: 1 });

/** As in tests/fixtures/make_optimizers.py: three blocks of different sizes. */
const wave = Float32Array.from({ length: 3 * 256 }, (_, n) => {
  const value = Math.fround(Math.sin(n * 4 * 0.7531 + 3) * Math.exp(-((n * 0.618033988749895) % 1) * 6));
  return value * Math.fround([1, 1e-3, 40][Math.floor(n / 256)]!);
});

async function coded(values: Float32Array, signed: boolean) {
  const shape = [values.length / 256, 256];
  const program = await device.compile(
    trace({ x: { dtype: "float32", shape } }, ({ x }) => {
      const { codes, scale } = encodeBlocks(x!, signed);
      return { codes, scale, decoded: decodeBlocks(codes, scale, signed) };
    }),
  );
  const { codes, scale, decoded } = await program.run({ x: hostTensor("float32", shape, values) });
  return {
    codes: Array.from(codes!.data as Uint8Array),
    scales: Array.from(scale!.data as Float32Array),
    decoded: decoded!.data as Float32Array,
  };
}

for (const kind of ["signed", "unsigned"] as const) {
  const signed = kind === "signed";
  describe(kind, () => {
    test("the table is bitsandbytes'", () => {
      expect(Array.from(dynamicTable(signed))).toEqual(quantize[kind].table);
    });

    test("so are codes and scales", async () => {
      const { codes, scales } = await coded(signed ? wave : wave.map(Math.abs), signed);
      expect(scales).toEqual(quantize[kind].scales);
      expect(codes).toEqual(quantize[kind].codes);
    });

    test("every code is its value's, and values between two get the nearer", async () => {
      const table = dynamicTable(signed);
      // The largest of a block is its scale: here 1.
      const block = (values: readonly number[]) => Float32Array.from({ length: 256 }, (_, i) => values[i] ?? 1);
      expect((await coded(table.slice(), signed)).codes).toEqual(Array.from(table, (_, i) => i));
      for (const share of [0.02, 0.49, 0.51, 0.98]) {
        const between = Array.from({ length: 255 }, (_, i) => table[i]! + (table[i + 1]! - table[i]!) * share);
        const { codes } = await coded(block(between), signed);
        expect(codes.slice(0, 255)).toEqual(between.map((_, i) => (share < 0.5 ? i : i + 1)));
      }
    });

    test("a block of zeros stays zero", async () => {
      const { decoded, scales } = await coded(new Float32Array(256), signed);
      expect(scales).toEqual([0]);
      expect(decoded.every((v) => v === 0)).toBe(true);
    });
  });
}
