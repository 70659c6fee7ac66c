import type { Values } from "../../train/search/space.ts";
import type { Population } from "./population.ts";

/** A member that gave up what it was for a copy of another one. */
export interface Copy {
  /** Steps that both had been trained. */
  step: number;
  target: number;
  source: number;
  /** The source's. */
  oldValues: Values;
  /** What the target goes on with. */
  newValues: Values;
}

/** All that happened to the values of a population. */
export interface Lineage {
  /** Steps of each member. */
  steps: number;
  /** Each member's values at the start. */
  initial: readonly Values[];
  /** In the order of time. Those of one step copy members as they were before any of them. */
  copies: readonly Copy[];
}

/** A part of a schedule: steps after `from`, up to and with `to`. */
export interface Segment {
  from: number;
  to: number;
  /** Who was trained then. */
  member: number;
  values: Values;
}

/** What a member's weights were trained with, from the first step to the last: the segments of its chain of ancestors. */
export function scheduleOf({ steps, initial, copies }: Lineage, member: number): Segment[] {
  const segments: Segment[] = [];
  let [current, end] = [member, steps];
  for (;;) {
    const copy = copies.findLast(({ step, target }) => target === current && step < end);
    segments.unshift({ from: copy?.step ?? 0, to: end, member: current, values: copy?.newValues ?? initial[current]! });
    if (!copy) return segments;
    [current, end] = [copy.source, copy.step];
  }
}

/**
 * A copy as Ray Tune logs it (`pbt_policy_….txt`, JSON lines): [target, source, the target's step, the source's step, the source's values, the new
 * values].
 */
export const policyLine = ({ step, target, source, oldValues, newValues }: Copy): unknown[] => [
  String(target),
  String(source),
  step,
  step,
  oldValues,
  newValues,
];

/** Trains a population of one with a schedule that a search has found. Returns its score at the end. */
export async function replay(schedule: readonly Segment[], population: Population): Promise<number> {
  for (const { from, to, values } of schedule) await population.train([values], to - from);
  return (await population.evaluate())[0]!;
}
