import { elementCount, type Tensor } from "../../graph/index.ts";
import type { Parameter } from "../../nn/index.ts";
import { concat, reshape, split } from "../../ops/index.ts";
import type { ParameterGroup, Slot } from "./optimizer.ts";

/** Parameters of at most so many elements are updated together. Above it, laying them end to end costs more than the nodes that it saves. */
const smallElements = 2 ** 14;

/** The value of a slot, or its gradient, from those of its parameters. */
export const joined = ({ parameters }: Slot, of: (parameter: Parameter) => Tensor): Tensor =>
  parameters.length === 1
    ? of(parameters[0]!)
    : concat(
        parameters.map((p) => reshape(of(p), [-1])),
        0,
      );

/** A tensor of a slot as tensors of its parameters. */
export function parted({ parameters }: Slot, value: Tensor): readonly (readonly [Parameter, Tensor])[] {
  if (parameters.length === 1) return [[parameters[0]!, value]];
  const parts = split(
    value,
    parameters.map((p) => elementCount(p.shape)),
    0,
  );
  return parameters.map((p, i) => [p, reshape(parts[i]!, p.shape)]);
}

export interface SlotRules {
  /** Parameters are updated together only where this says the same of them: all that the rule asks about a parameter. */
  kind(parameter: Parameter): string;
  /** Whether the rule makes of each element what it would make of it alone, so that parameters of this kind may be laid end to end. */
  elementwise(kind: string): boolean;
}

/**
 * What a rule updates, group by group. The small parameters of a group are one slot where the rule allows it: an update is a dozen nodes, and what a
 * node costs beside its arithmetic (2 to 4 µs) is more than the arithmetic of a small one.
 */
export function slotsOf(groups: readonly ParameterGroup[], { kind, elementwise }: SlotRules): Slot[] {
  return groups.flatMap((group) => {
    const alone = (p: Parameter): Slot => ({ name: p.name, group, parameters: [p], shape: p.shape });
    const small = new Map<string, Parameter[]>();
    const slots: Slot[] = [];
    for (const p of group.parameters) {
      const of = kind(p);
      if (!elementwise(of) || elementCount(p.shape) > smallElements) slots.push(alone(p));
      else small.set(of, [...(small.get(of) ?? []), p]);
    }
    for (const parameters of small.values()) {
      const elements = parameters.reduce((n, p) => n + elementCount(p.shape), 0);
      const [first] = parameters as [Parameter];
      if (parameters.length === 1) slots.push(alone(first));
      else slots.push({ name: `${first.name}+${parameters.length - 1}`, group, parameters, shape: [elements] });
    }
    return slots;
  });
}
