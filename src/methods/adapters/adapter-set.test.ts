import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openSafetensors, readPeftAdapter, readStorage } from "../../checkpoints/index.ts";
import { type EspalierError, Random, trace } from "../../graph/index.ts";
import { type CausalLM, loadCausalLM } from "../../models/index.ts";
import { floats } from "../../nn/index.ts";
import { hostTensor, type Program } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { AdapterSet, type CombineOptions, loadAdapter } from "../index.ts";
import { combineLora } from "./combine-lora.ts";
import { weightedSum } from "./task-arithmetic.ts";

interface Expected {
  input_ids: number[][];
  combinations: Record<
    string,
    {
      adapters: { adapter: string; weight: number }[];
      type: CombineOptions["type"];
      density?: number;
      svd_rank?: number;
      majority_sign_method?: "frequency";
    }
  >;
}

const source = "tests/fixtures/peft-combined";
const expected = JSON.parse(readFileSync(join(source, "expected.json"), "utf8")) as Expected;
const { tensors } = openSafetensors(join(source, "expected.safetensors"));
const values = (name: string) => readStorage(tensors.get(name)!) as Float32Array;
const device = cpu({ threads: 1 });
const rows = expected.input_ids;
const ids = hostTensor("int64", [rows.length, rows[0]!.length], BigInt64Array.from(rows.flat(), BigInt));
const distance = (a: Float32Array, b: Float32Array) =>
  a.length === b.length ? Math.max(...a.map((v, i) => Math.abs(v - b[i]!))) : Infinity;

const compile = (model: CausalLM): Promise<Program> =>
  device.compile(trace({ ids }, (i) => ({ y: model.logits(model.forward({ ids: i.ids }).hidden) })));
const run = async (program: Program) => ((await program.run({ ids })).y!.data as Float32Array).slice();

function opened(): { model: CausalLM; adapters: AdapterSet } {
  const model = loadCausalLM("tests/fixtures/llama-tiny");
  const adapters = new AdapterSet(model);
  for (const name of ["a", "b", "c"]) adapters.add(name, join(source, name));
  return { model, adapters };
}

const optionsOf = ({
  type,
  density,
  svd_rank: rank,
  majority_sign_method: majoritySign,
}: Expected["combinations"][string]): CombineOptions => ({
  type,
  ...(density !== undefined && { density }),
  ...(rank !== undefined && { rank }),
  ...(majoritySign && { majoritySign }),
});

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-set-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const refused = (fn: () => unknown): { code: string; message: string } => {
  try {
    fn();
  } catch (error) {
    const { code, message } = error as EspalierError;
    return { code, message };
  }
  throw new Error("was not refused");
};

describe("switching", () => {
  test("each adapter computes as PEFT's, in any order, and without one the base is what it was", async () => {
    const { model, adapters } = opened();
    const base = await run(await compile(model));
    for (const name of ["a", "b", "c", "a"]) {
      adapters.switch(name);
      expect(adapters.active).toBe(name);
      expect(distance(await run(await compile(model)), values(`${name}.logits`))).toBeLessThan(1e-4);
      adapters.switch(undefined);
      expect(await run(await compile(model))).toEqual(base);
    }
  });

  test("adapters of one structure share a program; another structure has another key", async () => {
    const { model, adapters } = opened();
    const twin = readPeftAdapter(join(source, "a"));
    const doubled = new Map(
      [...twin.tensors].map(([name, s]) => [
        name,
        floats(
          s.shape,
          (readStorage(s) as Float32Array).map((v) => 2 * v),
        ),
      ]),
    );
    adapters.add("twin", { config: twin.config, tensors: doubled });
    adapters.switch("a");
    const { structure } = adapters;
    const program = await compile(model);
    const first = await run(program);
    adapters.switch("twin");
    expect(adapters.structure).toBe(structure);
    const second = await run(program);
    expect(second).toEqual(await run(await compile(model)));
    expect(distance(first, second)).toBeGreaterThan(1e-2);
    adapters.switch("b");
    expect(adapters.structure).not.toBe(structure);
    adapters.switch("a");
    expect(await run(program)).toEqual(first);
    adapters.switch(undefined);
    expect(adapters.structure).toBe("");
  });

  test("kinds may differ: LoRA, virtual tokens and IA³ on one base", async () => {
    const { model, adapters } = opened();
    for (const name of ["peft-prefix", "peft-ia3", "peft-prompt"]) adapters.add(name, join("tests/fixtures", name));
    for (const name of ["peft-prompt", "b", "peft-ia3", "peft-prefix"]) {
      adapters.switch(name);
      const alone = loadCausalLM("tests/fixtures/llama-tiny");
      loadAdapter(alone, name === "b" ? join(source, name) : join("tests/fixtures", name));
      expect(await run(await compile(model)), name).toEqual(await run(await compile(alone)));
    }
  });

  test("what was trained of the active adapter is kept, combined and saved", () => {
    const { model, adapters } = opened();
    adapters.switch("a");
    const [parameter] = model.trainableParameters();
    const trained = floats(parameter!.shape, new Float32Array(parameter!.shape.reduce((x, y) => x * y, 1)).fill(7));
    parameter!.storage = trained;
    adapters.save("a", directory);
    expect(readStorage(readPeftAdapter(directory).tensors.get(parameter!.name)!)).toEqual(trained.data);
    adapters.switch("b");
    adapters.switch("a");
    expect(parameter!.storage).toBe(trained);
  });

  test("a deleted adapter is gone, and its name is free", async () => {
    const { model, adapters } = opened();
    const base = await run(await compile(model));
    adapters.switch("a");
    adapters.delete("a");
    expect(adapters.active).toBeUndefined();
    expect(await run(await compile(model))).toEqual(base);
    expect(adapters.names).toEqual(["b", "c"]);
    expect(refused(() => adapters.switch("a"))).toEqual({
      code: "unknown-adapter",
      message: 'There is no adapter "a"; those there are: b, c.',
    });
    adapters.add("a", join(source, "c"));
    expect(refused(() => adapters.add("a", join(source, "c"))).code).toBe("adapter-name");
  });

  test("an adapter that does not fit is refused, and the active one stays", async () => {
    const { model, adapters } = opened();
    adapters.switch("b");
    const { code, message } = refused(() => adapters.add("other", "tests/fixtures/peft-lora-gpt2"));
    expect(code).toBe("adapter-tensors");
    expect(message).toMatch(/tensors of the adapter match nothing in the model: transformer\.\S+, .* \(nearest: model\./);
    expect(adapters.active).toBe("b");
    expect(distance(await run(await compile(model)), values("b.logits"))).toBeLessThan(1e-4);
    expect(adapters.names).toEqual(["a", "b", "c"]);
  });
});

describe("combining", () => {
  test.each(Object.keys(expected.combinations))("%s equals PEFT's add_weighted_adapter", async (key) => {
    const combination = expected.combinations[key]!;
    const { model, adapters } = opened();
    adapters.combine("new", combination.adapters, optionsOf(combination));
    adapters.save("new", directory);
    const { tensors: ours } = readPeftAdapter(directory);
    const modules = new Set([...ours.keys()].map((name) => name.replace(/\.lora_[AB]\.weight$/, "")));
    expect(modules.size).toBe(3);
    for (const module of modules) {
      const [a, b] = ["A", "B"].map((side) => ours.get(`${module}.lora_${side}.weight`)!);
      const [A, B] = [readStorage(a!) as Float32Array, readStorage(b!) as Float32Array];
      if (key === "svd") expect(distance(product(A, B, a!.shape[0]!), values(`${key}.${module}.delta`))).toBeLessThan(1e-5);
      else {
        // PEFT fills the rest of A and B with zeros where a module has fewer adapters than the combination.
        const theirs = tensors.get(`${key}.${module}.A`)!;
        const width = A.length / a!.shape[0]!;
        expect(distance(A, (readStorage(theirs) as Float32Array).subarray(0, A.length)), module).toBeLessThan(1e-6);
        expect(width).toBe(theirs.shape[1]);
        expect(
          distance(product(A, B, a!.shape[0]!), product(values(`${key}.${module}.A`), values(`${key}.${module}.B`), theirs.shape[0]!)),
        ).toBeLessThan(1e-5);
      }
    }
    adapters.switch("new");
    expect(distance(await run(await compile(model)), values(`${key}.logits`))).toBeLessThan(1e-4);
  });

  /** B·A, [out, in]. */
  function product(a: Float32Array, b: Float32Array, rank: number): Float32Array {
    const inputs = a.length / rank;
    return Float32Array.from({ length: (b.length / rank) * inputs }, (_, i) => {
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += b[Math.floor(i / inputs) * rank + r]! * a[r * inputs + (i % inputs)]!;
      return sum;
    });
  }

  test("svd of more rank than the adapters have in all is exact, and of full matrices too", () => {
    const adapter = readPeftAdapter(join(source, "c"));
    const module = "model.layers.0.self_attn.q_proj";
    for (const rank of [3, 10, 60]) {
      const { tensors: ours } = combineLora(
        [{ name: "c", adapter, weight: 1 }, ...(rank === 60 ? Array.from({ length: 20 }, () => ({ name: "c", adapter, weight: 0 })) : [])],
        {
          type: "svd",
          rank,
        },
      );
      const [a, b] = ["A", "B"].map((side) => readStorage(ours.get(`${module}.lora_${side}.weight`)!) as Float32Array);
      const [A, B] = ["A", "B"].map((side) => readStorage(adapter.tensors.get(`${module}.lora_${side}.weight`)!) as Float32Array);
      expect(distance(product(a!, b!, Math.min(rank, 48)), product(A!, B!, 3)), `rank ${rank}`).toBeLessThan(1e-5);
    }
  });

  test("dare keeps about as many as the density says, stretched so that the mean stays", () => {
    const ones = new Float32Array(20000).fill(1);
    const sum = weightedSum([ones, ones], [1, 2], { type: "dare_linear", density: 0.25, random: new Random(1) });
    const kept = sum.filter((v) => v !== 0).length / sum.length;
    // 1 − 0.75²; the deviation of the share is 0.0035, that of the mean 0.028.
    expect(Math.abs(kept - 0.4375)).toBeLessThan(0.015);
    expect(Math.abs(sum.reduce((x, y) => x + y) / sum.length - 3)).toBeLessThan(0.12);
    expect(new Set(sum)).toEqual(new Set([0, 4, 8, 12]));
  });

  test("what cannot be combined is refused by name", () => {
    const { adapters } = opened();
    const parts = (...names: string[]) => names.map((adapter) => ({ adapter, weight: 1 }));
    adapters.add("dora", "tests/fixtures/peft-dora");
    adapters.add("ia3", "tests/fixtures/peft-ia3");
    expect(refused(() => adapters.combine("x", parts("a", "dora"), { type: "cat" })).message).toMatch(
      /"dora" holds \S+lora_magnitude_vector/,
    );
    expect(refused(() => adapters.combine("x", parts("ia3"), { type: "cat" })).message).toMatch(/"ia3" is of the kind IA3/);
    expect(refused(() => adapters.combine("x", parts("a", "c"), { type: "linear" })).message).toMatch(/ranks 4, 3 at "model\.layers\.0/);
    expect(refused(() => adapters.combine("x", parts("a", "b"), { type: "ties" })).message).toMatch(/ties needs a density/);
    expect(refused(() => adapters.combine("x", parts("a", "d"), { type: "cat" })).code).toBe("unknown-adapter");
    expect(refused(() => adapters.combine("x", [], { type: "cat" })).code).toBe("bad-option");
    expect(adapters.names).not.toContain("x");
  });
});
