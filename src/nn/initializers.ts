import { elementCount, type MemoryStorage, type Random } from "../graph/index.ts";
import { floats } from "./module.ts";

/** Makes the initial values of a parameter. */
export type Initializer = (shape: readonly number[]) => MemoryStorage;

export const constantFill =
  (value: number): Initializer =>
  (shape) =>
    floats(shape, new Float32Array(elementCount(shape)).fill(value));
export const zeros = constantFill(0);
export const ones = constantFill(1);

const sampled = (shape: readonly number[], sample: () => number) =>
  floats(shape, Float32Array.from({ length: elementCount(shape) }, sample));

/** N(0, σ²). */
export const normal =
  (random: Random, deviation: number): Initializer =>
  (shape) =>
    sampled(shape, () => random.normal() * deviation);

/** U(−bound, bound). */
export const uniform =
  (random: Random, bound: number): Initializer =>
  (shape) =>
    sampled(shape, () => (random.uniform() * 2 - 1) * bound);

/** PyTorch's default for a Linear weight [out, in]: U(±1/√in) (He et al., "Delving Deep into Rectifiers", with a = √5). */
export const kaimingUniform =
  (random: Random): Initializer =>
  (shape) =>
    uniform(random, 1 / Math.sqrt(elementCount(shape.slice(1))))(shape);
