import { z } from "zod";
import { elementCount, type MemoryStorage, read, type Shape, type Tensor, Variable } from "../../graph/index.ts";
import { floats, type Parameter } from "../../nn/index.ts";
import { inChunks, pad, reshape, slice } from "../../ops/index.ts";
import { blockSize, decodeBlocks, encodeBlocks } from "./dynamic-code.ts";
import type { ParameterGroup, Slot, SlotUpdate } from "./optimizer.ts";
import { slotsOf } from "./slots.ts";

/**
 * How the moments of tensors with 4096 elements or more are kept: `float32`, or `int8` for a quarter of the memory (Dettmers, Lewis, Shleifer and
 * Zettlemoyer, "8-bit Optimizers via Block-wise Quantization").
 */
export const stateDtype = z.enum(["float32", "int8"]).default("float32");
export type StateDtype = z.output<typeof stateDtype>;

/** Tensors with fewer elements are kept in float32, as bitsandbytes does: they are small, and their blocks few. */
const smallestCoded = 4096;

const isCoded = ({ shape }: Parameter, dtype: StateDtype): boolean => dtype === "int8" && elementCount(shape) >= smallestCoded;

/** A state that starts at zero. */
export function zeroState(name: string, shape: readonly number[]): Variable {
  return new Variable(name, { dtype: "float32", shape }, (): MemoryStorage => floats(shape, new Float32Array(elementCount(shape))));
}

/** A moment of a slot: its name, and whether it may be below zero. */
interface MomentOptions {
  name: string;
  signed: boolean;
}

type Values = Readonly<Record<string, Tensor>>;

/** The moments of one slot, and the rule that moves them. */
interface Moments {
  readonly variables: readonly Variable[];
  /** `rule` makes of each element what it would make of it alone. It gets `value`, `gradient` and the moments, and returns `value` and the moments. */
  update(operands: { value: Tensor; gradient: Tensor }, rule: (operands: Values) => Values): SlotUpdate;
}

const momentsOf = (slot: Slot, moments: readonly MomentOptions[], dtype: StateDtype): Moments =>
  isCoded(slot.parameters[0]!, dtype) ? codedMoments(slot, moments) : plainMoments(slot, moments);

export interface ElementwiseOptions {
  moments: readonly MomentOptions[];
  stateDtype: StateDtype;
  /** Which parameters decay: those that do and those that do not are never updated together. */
  decays(parameter: Parameter): boolean;
}

/** The slots and moments of a rule that makes of each element what it would make of it alone. */
export function elementwiseSlots(groups: readonly ParameterGroup[], { moments, stateDtype, decays }: ElementwiseOptions) {
  const slots = slotsOf(groups, {
    kind: (p) => `${decays(p)} ${isCoded(p, stateDtype) ? "coded" : "plain"}`,
    elementwise: (kind) => kind.endsWith("plain"), // the blocks of a coded moment are a parameter's own
  });
  const momentsOfSlot = new Map(slots.map((slot) => [slot, momentsOf(slot, moments, stateDtype)]));
  return {
    slots,
    variables: slots.flatMap((slot) => momentsOfSlot.get(slot)!.variables),
    update: (slot: Slot, operands: { value: Tensor; gradient: Tensor }, rule: (operands: Values) => Values): SlotUpdate =>
      momentsOfSlot.get(slot)!.update(operands, rule),
  };
}

function plainMoments(slot: Slot, moments: readonly MomentOptions[]): Moments {
  const variables = moments.map(({ name }) => zeroState(`${slot.name}.${name}`, slot.shape));
  return {
    variables,
    update(operands, rule) {
      const next = rule({ ...operands, ...Object.fromEntries(moments.map(({ name }, i) => [name, read(variables[i]!)])) });
      return { value: next.value!, state: moments.map(({ name }, i) => [variables[i]!, next[name]!] as const) };
    },
  };
}

/** Blocks that are decoded at one time: a quarter of a million elements, with which it is fastest as well, so that no moment of a large parameter is ever there in float32 as a whole. */
const blocksAtOneTime = 2 ** 10;

function codedMoments(slot: Slot, moments: readonly MomentOptions[]): Moments {
  const elements = elementCount(slot.shape);
  const blocks = Math.ceil(elements / blockSize);
  const missing = blocks * blockSize - elements;
  const inBlocks = (x: Tensor) => {
    const flat = reshape(x, [elements]);
    return reshape(missing === 0 ? flat : pad(flat, 0, 0, missing), [blocks, blockSize]);
  };
  const outOfBlocks = (x: Tensor, shape: Shape) => {
    const flat = reshape(x, [blocks * blockSize]);
    return reshape(missing === 0 ? flat : slice(flat, 0, 0, elements), shape);
  };
  const states = moments.map(({ name, signed }) => ({
    name,
    signed,
    codes: new Variable(`${slot.name}.${name}`, { dtype: "uint8", shape: [blocks, blockSize] }, (): MemoryStorage => {
      const shape = [blocks, blockSize];
      return { kind: "memory", dtype: "uint8", shape, data: new Uint8Array(blocks * blockSize) };
    }),
    scale: zeroState(`${slot.name}.${name}.scale`, [blocks, 1]),
  }));
  return {
    variables: states.flatMap(({ codes, scale }) => [codes, scale]),
    update({ value, gradient }, rule) {
      const cut: Record<string, Tensor> = { value: inBlocks(value), gradient: inBlocks(gradient) };
      for (const { name, codes, scale } of states) Object.assign(cut, { [`${name}.codes`]: read(codes), [`${name}.scale`]: read(scale) });
      const [next, ...coded] = inChunks(cut, blocksAtOneTime, (part) => {
        const decoded = states.map(({ name, signed }) => [name, decodeBlocks(part[`${name}.codes`]!, part[`${name}.scale`]!, signed)]);
        const moved = rule({ value: part.value!, gradient: part.gradient!, ...Object.fromEntries(decoded) });
        const encoded = states.map(({ name, signed }) => encodeBlocks(moved[name]!, signed));
        return [moved.value!, ...encoded.flatMap(({ codes, scale }) => [codes, scale])];
      });
      const state = states.flatMap(({ codes, scale }, i) => [[codes, coded[2 * i]!] as const, [scale, coded[2 * i + 1]!] as const]);
      return { value: outOfBlocks(next!, value.shape), state };
    },
  };
}
