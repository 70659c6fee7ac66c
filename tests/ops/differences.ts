import type { Values } from "./values.ts";

/**
 * The slope of `loss` along each element of one input. In float64 the central difference with step 1e-5 is good to about 1e-9; in float32
 * rounding would drown so small a step, and the five-point stencil allows one of 0.03 with an error of the order of step⁴.
 */
export async function centralDifferences(
  inputs: Record<string, Values>,
  name: string,
  loss: (inputs: Record<string, Values>) => Promise<number>,
  float: "float64" | "float32",
): Promise<number[]> {
  const { data } = inputs[name]!;
  const slopes: number[] = [];
  for (const i of data.keys()) {
    const at = (offset: number) => loss({ ...inputs, [name]: { ...inputs[name]!, data: data.map((v, j) => (j === i ? v + offset : v)) } });
    if (float === "float64") {
      const h = 1e-5;
      slopes.push(((await at(h)) - (await at(-h))) / (2 * h));
    } else {
      const h = 2 ** -5;
      slopes.push((8 * ((await at(h)) - (await at(-h))) - ((await at(2 * h)) - (await at(-2 * h)))) / (12 * h));
    }
  }
  return slopes;
}
