import { describe, expect, test } from "vitest";
import { grad, vjp } from "../../src/autodiff/index.ts";
import {
  type DType,
  EspalierError,
  Graph,
  isFloat,
  type Shape,
  symbol,
  type Tensor,
  type Traced,
  trace,
  tracing,
} from "../../src/graph/index.ts";
import { mul, sum, zerosLike } from "../../src/ops/index.ts";
import type { HostTensor, Program } from "../../src/runtime/device.ts";
import { centralDifferences } from "./differences.ts";
import { device, providers } from "./providers.ts";
import { expectClose, host, numbers, sample, type Values } from "./values.ts";

export * from "./values.ts";

export type Operands<K extends string> = Record<K, Tensor>;

/** What is known of an operator: enough to test its values, gradients and errors everywhere. */
export interface OpCase<K extends string> {
  inputs: Record<K, Values>;
  fn: (inputs: Operands<K>) => Tensor | readonly Tensor[];
  /** The elements of the output (of each output, when `fn` returns several), computed by hand or by another formula. */
  expected: readonly number[] | readonly (readonly number[])[];
  /** Inputs to differentiate by; default: every float one. */
  wrt?: readonly NoInfer<K>[];
  /** Inputs too large, or points too rough, for differences by every element: only values are checked. */
  gradient?: boolean;
  /** Check the derivative of the gradient too. */
  second?: boolean;
  /** Providers that cannot run it, and why. */
  without?: Readonly<Record<string, string>>;
  /** Largest error of float32 values, relative to 1 + |value|. */
  tolerance?: number;
}

const listed = (y: Tensor | readonly Tensor[]): readonly Tensor[] => (Array.isArray(y) ? y : [y as Tensor]);

interface Differentiated {
  traced: Traced;
  outputs: readonly Tensor[];
  seeds: Record<string, Values>;
  wrt: readonly string[];
}

/** Traces `fn` with outputs `y0, y1, …`, and the gradient of a random projection of them for each float input. */
function differentiate<K extends string>(
  types: Record<K, { dtype: DType; shape: Shape }>,
  fn: (inputs: Operands<K>) => Tensor | readonly Tensor[],
  wrt: readonly string[],
  sizes?: Record<string, number>,
): Differentiated {
  const graph = new Graph();
  return tracing(graph, () => {
    const entries = Object.entries<{ dtype: DType; shape: Shape }>(types);
    const inputs = Object.fromEntries(entries.map(([name, t]) => [name, graph.input(name, t.dtype, t.shape)])) as Operands<K>;
    const outputs = listed(fn(inputs));
    const results: Record<string, Tensor> = Object.fromEntries(outputs.map((t, i) => [`y${i}`, t]));
    const seeds: Record<string, Values> = {};
    const smooth = wrt.length > 0 ? outputs.filter((t) => isFloat(t.dtype)) : [];
    const projections = smooth.map((t, i) => {
      seeds[`seed${i}`] = sample(resolve(t.shape, sizes), 0.25, 1.75, 99 + i);
      return graph.input(`seed${i}`, t.dtype, t.shape);
    });
    const gradients = vjp(
      smooth,
      projections,
      wrt.map((name) => inputs[name as K]),
    );
    for (const [i, g] of gradients.entries()) results[`d.${wrt[i]}`] = g ?? zerosLike(inputs[wrt[i] as K]);
    return { traced: { graph, outputs: results }, outputs, seeds, wrt };
  });
}

function resolve(shape: Shape, sizes: Record<string, number> = {}): number[] {
  const value = (monomial: string) =>
    monomial
      .split("*")
      .filter(Boolean)
      .reduce((n, s) => n * sizes[s]!, 1);
  return shape.map((d) => (typeof d === "number" ? d : [...d.terms].reduce((n, [monomial, k]) => n + k * value(monomial), 0)));
}

const typesOf = <K extends string>(inputs: Record<K, Values>, float: DType) =>
  Object.fromEntries(Object.entries<Values>(inputs).map(([name, v]) => [name, { dtype: v.dtype ?? float, shape: v.shape }])) as Record<
    K,
    { dtype: DType; shape: Shape }
  >;

const feedsOf = (inputs: Record<string, Values>, float: DType): Record<string, HostTensor> =>
  Object.fromEntries(Object.entries(inputs).map(([name, v]) => [name, host(v, float)]));

const isMissingKernel = (error: unknown): boolean =>
  error instanceof EspalierError &&
  error.code === "session" &&
  /NOT_IMPLEMENTED|Could not find an implementation|INVALID_GRAPH|Type Error/.test(error.message);

/** Gradients in float64 on the CPU (in float32 where a kernel has no float64 version), checked against central differences. */
async function reference<K extends string>(c: OpCase<K>, wrt: readonly string[]): Promise<Record<string, number[]>> {
  const reference = await device("cpu");
  for (const float of ["float64", "float32"] as const) {
    const d = differentiate(typesOf(c.inputs, float), c.fn, wrt);
    let program: Program;
    try {
      program = await reference.compile(d.traced);
    } catch (error) {
      if (float === "float64" && isMissingKernel(error)) continue;
      throw error;
    }
    const seeds = feedsOf(d.seeds, float);
    const results = await program.run({ ...feedsOf(c.inputs, float), ...seeds });
    const gradients = Object.fromEntries(wrt.map((name) => [name, numbers(results[`d.${name}`]!)]));
    const smooth = d.outputs.flatMap((t, i) => (isFloat(t.dtype) ? [`y${i}`] : []));
    // The projection is summed here, in float64, whatever the graph computes in.
    const loss = async (inputs: Record<string, Values>) => {
      const ys = await program.run({ ...feedsOf(inputs, float), ...seeds });
      return smooth.reduce((total, y, s) => total + dot(numbers(ys[y]!), d.seeds[`seed${s}`]!.data), 0);
    };
    for (const name of wrt) {
      const slopes = await centralDifferences(c.inputs, name, loss, float);
      expectClose(
        gradients[name]!,
        slopes,
        float === "float64" ? 1e-6 : 2e-4,
        `gradient for ${name} against central differences in ${float}`,
      );
    }
    await program.dispose();
    return gradients;
  }
  throw new Error("unreachable");
}

const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((total, v, i) => total + v * b[i]!, 0);

const floatInputs = (inputs: Record<string, Values>): string[] => Object.keys(inputs).filter((k) => isFloat(inputs[k]!.dtype ?? "float32"));

/** Tests an operator: its values and gradients on every provider, its gradients against central differences. */
export function checkOp<K extends string>(name: string, c: OpCase<K>): void {
  describe(name, () => {
    const wrt = c.gradient === false ? [] : (c.wrt ?? floatInputs(c.inputs));
    let known: Promise<Record<string, number[]>> | undefined;
    const gradients = () => (known ??= reference(c, wrt));
    if (wrt.length > 0) test("gradient against central differences", async () => void (await gradients()));
    for (const provider of providers) {
      const reason = c.without?.[provider];
      test.skipIf(reason)(`values${wrt.length > 0 ? " and gradients" : ""} on ${provider}${reason ? `: ${reason}` : ""}`, async () => {
        const d = differentiate(typesOf(c.inputs, "float32"), c.fn, wrt);
        const program = await (await device(provider)).compile(d.traced);
        const results = await program.run({ ...feedsOf(c.inputs, "float32"), ...feedsOf(d.seeds, "float32") });
        await program.dispose();
        const expected = (Array.isArray(c.expected[0]) ? c.expected : [c.expected]) as number[][];
        for (const [i, t] of d.outputs.entries()) {
          expect(results[`y${i}`]!.shape, `shape of output ${i}`).toEqual(t.shape);
          expect(results[`y${i}`]!.dtype, `dtype of output ${i}`).toBe(t.dtype);
          expectClose(numbers(results[`y${i}`]!), expected[i]!, c.tolerance ?? 1e-5, `output ${i}`);
        }
        for (const [k, g] of Object.entries(wrt.length > 0 ? await gradients() : {})) {
          expect(results[`d.${k}`]!.shape, `shape of the gradient for ${k}`).toEqual(c.inputs[k as K].shape);
          expectClose(numbers(results[`d.${k}`]!), g, 1e-4, `gradient for ${k}`);
        }
      });
    }
    if (c.second) {
      test("second derivative against central differences", async () => {
        const fn = (inputs: Operands<K>) => {
          const ys = listed(c.fn(inputs)).filter((t) => isFloat(t.dtype));
          const loss = ys.map((y) => sum(mul(y, mul(y, y)))).reduce((a, b) => mul(a, b));
          return grad(
            loss,
            wrt.map((k) => inputs[k as K]),
          );
        };
        await reference({ ...c, fn }, wrt);
      });
    }
  });
}

/** Tests that tracing `fn` over inputs of these types throws an error for people: it names the operator and what was wrong. */
export function checkRejects<K extends string>(
  name: string,
  types: Record<K, readonly [DType, ...(number | string)[]]>,
  fn: (inputs: Operands<K>) => unknown,
  message: RegExp,
): void {
  test(`${name}: shape error`, () => {
    const entries = Object.entries<readonly [DType, ...(number | string)[]]>(types);
    const typed = Object.fromEntries(entries.map(([k, [dtype, ...shape]]) => [k, { dtype, shape: symbolic(shape) }]));
    let error: unknown;
    try {
      trace(typed, (inputs) => {
        fn(inputs as Operands<K>);
        return {};
      });
    } catch (e) {
      error = e;
    }
    expect(error).toBeInstanceOf(EspalierError);
    expect((error as EspalierError).message).toMatch(message);
  });
}

const symbolic = (shape: readonly (number | string)[]): Shape => shape.map((d) => (typeof d === "string" ? symbol(d) : d));

/**
 * Tests that one graph with named dimensions serves several sizes: its values and gradients must equal those of a graph of numbers.
 * `inputs` gives shapes in which strings are symbols; `make` may give the numbers of an input for the sizes.
 */
export function checkSymbolic<K extends string>(
  name: string,
  c: {
    inputs: Record<K, readonly (number | string)[]>;
    sizes: readonly Record<string, number>[];
    fn: (inputs: Operands<K>) => Tensor | readonly Tensor[];
    make?: Partial<Record<NoInfer<K>, (shape: readonly number[]) => Values>>;
    wrt?: readonly NoInfer<K>[];
  },
): void {
  const shapes = Object.entries<readonly (number | string)[]>(c.inputs);
  const fed = (sizes: Record<string, number>) =>
    Object.fromEntries(
      shapes.map(([k, shape], i) => {
        const concrete = resolve(symbolic(shape), sizes);
        return [k, c.make?.[k as K]?.(concrete) ?? sample(concrete, -1, 1, i + 1)];
      }),
    ) as Record<K, Values>;
  for (const provider of providers) {
    test(`${name}: one graph for several sizes on ${provider}`, async () => {
      const probe = fed(c.sizes[0]!);
      const wrt = c.wrt ?? floatInputs(probe);
      const types = Object.fromEntries(
        shapes.map(([k, shape]) => [k, { dtype: probe[k as K].dtype ?? "float32", shape: symbolic(shape) }]),
      ) as Record<K, { dtype: DType; shape: Shape }>;
      const general = differentiate(types, c.fn, wrt, c.sizes[0]);
      const program = await (await device(provider)).compile(general.traced);
      for (const sizes of c.sizes) {
        const inputs = fed(sizes);
        const special = differentiate(typesOf(inputs, "float32"), c.fn, wrt);
        const expected = await runOnce("cpu", special.traced, { ...feedsOf(inputs, "float32"), ...feedsOf(special.seeds, "float32") });
        const results = await program.run({ ...feedsOf(inputs, "float32"), ...feedsOf(special.seeds, "float32") });
        for (const key of Object.keys(expected)) {
          expect(results[key]!.shape, `shape of ${key} at ${JSON.stringify(sizes)}`).toEqual(expected[key]!.shape);
          expectClose(numbers(results[key]!), numbers(expected[key]!), 1e-4, `${key} at ${JSON.stringify(sizes)}`);
        }
      }
      await program.dispose();
    });
  }
}

/** Fails where a provider's values or gradients differ from the CPU's by more than 1e-4 of the tensor's largest element. */
export async function compareProviders<K extends string>(c: Pick<OpCase<K>, "inputs" | "fn" | "wrt">): Promise<void> {
  const run = (provider: string) => {
    const d = differentiate(typesOf(c.inputs, "float32"), c.fn, c.wrt ?? floatInputs(c.inputs));
    return runOnce(provider, d.traced, { ...feedsOf(c.inputs, "float32"), ...feedsOf(d.seeds, "float32") });
  };
  const expected = await run("cpu");
  for (const provider of providers.filter((p) => p !== "cpu")) {
    const actual = await run(provider);
    for (const [name, e] of Object.entries(expected)) {
      const scale = Math.max(1e-3, ...numbers(e).map(Math.abs));
      const relative = (t: HostTensor) => numbers(t).map((v) => v / scale);
      expectClose(relative(actual[name]!), relative(e), 1e-4, `${name} on ${provider}`);
    }
  }
}

/** Compiles, runs and disposes. */
export async function runOnce(provider: string, traced: Traced, feeds: Record<string, HostTensor>): Promise<Record<string, HostTensor>> {
  const program = await (await device(provider)).compile(traced);
  try {
    return await program.run(feeds);
  } finally {
    await program.dispose();
  }
}
