import type { BatchSource } from "../data/index.ts";
import { EspalierError, type Variable } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import type { HostTensor } from "../runtime/index.ts";
import type { GroupOptions, Method, Selection, StepContext } from "./method.ts";
import type { Objective } from "./objectives/index.ts";
import type { ParameterGroup } from "./optimizers/index.ts";
import type { StepReport } from "./train-options.ts";

/** The host state of a method, as a checkpoint holds it. */
export interface MethodState {
  name: string;
  state: unknown;
}

/** The methods of a run as one. */
export class MethodSet {
  readonly #methods: readonly Method[];
  readonly #selections: readonly { method: string; selection: Selection }[];
  /** Trained parameters, those apart that have scalars or gates of their own. */
  readonly groups: readonly ParameterGroup[];

  constructor(methods: readonly Method[], parameters: readonly Parameter[]) {
    this.#methods = methods;
    this.#selections = methods.flatMap((m) => (m.selection ? [{ method: m.name, selection: m.selection(parameters) }] : []));
    this.groups = this.#partition(parameters);
  }

  objective(base: Objective): Objective {
    return this.#methods.reduce((objective, m) => m.objective?.(objective) ?? objective, base);
  }

  data(base: BatchSource): BatchSource {
    return this.#methods.reduce((source, m) => m.data?.(source) ?? source, base);
  }

  get variables(): Variable[] {
    return this.#methods.flatMap((m) => m.variables ?? []);
  }

  /** The further inputs of a step. */
  inputs(step: number): Record<string, HostTensor> {
    return Object.assign({}, ...this.#methods.map((m) => m.inputs?.(step)));
  }

  /** Whether each gate is open in a step. */
  choose(step: number): Record<string, boolean> {
    const chosen = this.#selections.map(({ method, selection }) => ({ method, selection, open: selection.choose(step) }));
    const isOpen = (parameter: Parameter) =>
      chosen.every(({ method, selection, open }) => {
        const gate = selection.gates.get(parameter);
        if (gate === undefined) return true;
        if (typeof open[gate] !== "boolean")
          throw new EspalierError("bad-method", `${method}: step ${step} does not say whether the gate "${gate}" is open.`);
        return open[gate];
      });
    return Object.fromEntries(this.groups.flatMap(({ gate, parameters: [first] }) => (gate === undefined ? [] : [[gate, isOpen(first!)]])));
  }

  async afterStep(report: StepReport, context: StepContext): Promise<void> {
    // They may read what the step has made of the weights.
    if (this.#methods.some((m) => m.afterStep)) await context.device.toHost();
    for (const m of this.#methods) await m.afterStep?.(report, context);
  }

  /** The host state of every method that has one. */
  state(): MethodState[] {
    return this.#methods.flatMap((m) => (m.state ? [{ name: m.name, state: m.state() }] : []));
  }

  restore(states: readonly MethodState[]): void {
    const methods = this.#methods.filter((m) => m.state);
    const names = (list: readonly { name: string }[]) => list.map(({ name }) => name).join(", ") || "none";
    if (names(methods) !== names(states))
      throw new EspalierError(
        "checkpoint-mismatch",
        `The checkpoint holds the state of other methods (${names(states)}) than this run's (${names(methods)}).`,
      );
    for (const [i, m] of methods.entries()) m.restore?.(states[i]!.state);
  }

  #partition(parameters: readonly Parameter[]): ParameterGroup[] {
    const groups = new Map<string, ParameterGroup & { parameters: Parameter[] }>();
    for (const parameter of parameters) {
      const options = this.#methods.flatMap((m) => m.group?.(parameter) ?? []);
      const gates = this.#selections.flatMap(({ method, selection }, i) => {
        const gate = selection.gates.get(parameter);
        return gate === undefined ? [] : this.#selections.length > 1 ? `${method}.${i}.${gate}` : gate;
      });
      const gate = gates.length > 0 ? gates.join("+") : undefined;
      const name = `${options.map((o) => o.name).join("+")}${gate === undefined ? "" : `@${gate}`}`;
      const known = groups.get(name);
      if (known) known.parameters.push(parameter);
      else groups.set(name, { name, parameters: [parameter], ...scalarsOf(options), ...(gate !== undefined && { gate }) });
    }
    return [...groups.values()];
  }
}

/** What several methods ask of one group: factors multiply, and of the other options the last that is given counts. */
function scalarsOf(options: readonly GroupOptions[]): Omit<ParameterGroup, "name" | "parameters" | "gate"> {
  const last = <K extends "learningRate" | "schedule" | "weightDecay">(key: K) => {
    const value = options.findLast((o) => o[key] !== undefined)?.[key];
    return value === undefined ? {} : { [key]: value };
  };
  return {
    ...(options.length > 0 && { learningRateFactor: options.reduce((factor, o) => factor * (o.learningRateFactor ?? 1), 1) }),
    ...last("learningRate"),
    ...last("schedule"),
    ...last("weightDecay"),
  };
}
