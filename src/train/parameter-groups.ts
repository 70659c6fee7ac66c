import { EspalierError, nearestNames, show } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import type { Method } from "./method.ts";
import type { ParameterGroup } from "./optimizers/index.ts";
import type { Schedule } from "./schedules.ts";

/** Parameters that a run sets apart by their names, and what is different for them. */
export interface GroupRule {
  /**
   * A pattern for the whole name, in which `*` stands for any characters; a regular expression that finds something in the name; or a question about the
   * parameter. Of several rules that fit a parameter the first counts.
   */
  match: string | RegExp | ((parameter: Parameter) => boolean);
  /** Peak learning rate, in place of the run's. */
  learningRate?: number;
  /** Factor on the peak learning rate. Default 1. */
  learningRateFactor?: number;
  /** In place of the optimizer's weight decay. */
  weightDecay?: number;
  /** In place of the run's schedule. */
  schedule?: Schedule;
  /** The first step that updates these parameters, and the last. In the others they cost neither gradients nor updates. Default: all. */
  from?: number;
  to?: number;
  /** Whether it may fit no trained parameter. Default false: that is an error. */
  optional?: boolean;
}

/** `match` as it is written, for names and messages. */
const written = ({ match }: GroupRule): string => (typeof match === "function" ? match.name || "a function" : String(match));

function fits({ match }: GroupRule, parameter: Parameter): boolean {
  if (typeof match === "function") return match(parameter);
  if (typeof match !== "string") return new RegExp(match.source, match.flags.replace(/[gy]/g, "")).test(parameter.name);
  const [first, ...parts] = match.split("*") as [string, ...string[]];
  const last = parts.pop();
  if (last === undefined) return parameter.name === match;
  if (!parameter.name.startsWith(first)) return false;
  let at = first.length;
  for (const part of parts) {
    const found = parameter.name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return parameter.name.length - last.length >= at && parameter.name.endsWith(last);
}

/**
 * Rules as a method, so that they compose with those of other methods: factors multiply, and of rates, decays and schedules the last counts. Two rules
 * that say the same are one group.
 *
 * @throws EspalierError `no-parameter` when a rule fits no trained parameter, `bad-option` for steps that do not follow one another or a rate below 0
 */
export function parameterGroups(rules: readonly GroupRule[], parameters: readonly Parameter[]): Method {
  const ruleOf = new Map<Parameter, number>();
  for (const p of parameters) {
    const at = rules.findIndex((rule) => fits(rule, p));
    if (at >= 0) ruleOf.set(p, at);
  }
  const names = parameters.map(({ name }) => name);
  for (const [at, rule] of rules.entries()) {
    const { from = 1, to = Number.POSITIVE_INFINITY, learningRate = 0, learningRateFactor = 0, weightDecay = 0 } = rule;
    if (!(from >= 1 && to >= from)) throw badRule(rule, `from ${from} and to ${to} must be steps from 1, the last not before the first`);
    if (![learningRate, learningRateFactor, weightDecay].every((v) => v >= 0 && Number.isFinite(v)))
      throw badRule(rule, "learning rate, factor and weight decay must be numbers of at least 0");
    if (rule.optional || [...ruleOf.values()].includes(at)) continue;
    if (parameters.some((p) => fits(rule, p)))
      throw badRule(rule, "every parameter that it fits is taken by a rule before it; put it first");
    throw new EspalierError(
      "no-parameter",
      `groups: ${show(written(rule))} fits no trained parameter. Nearest: ${nearestNames(written(rule), names).join(", ")}.`,
    );
  }
  const gateOf = ({ from = 1, to }: GroupRule) => (from === 1 && to === undefined ? undefined : `steps ${from} to ${to ?? "the end"}`);
  const gated = rules.filter((rule) => gateOf(rule) !== undefined);
  return {
    name: "groups",
    options: { rules: rules.map(describeRule) },
    group(parameter) {
      const at = ruleOf.get(parameter);
      if (at === undefined) return undefined;
      const { learningRate, learningRateFactor, weightDecay, schedule } = rules[at]!;
      return { name: `groups.${at}`, learningRate, learningRateFactor, weightDecay, schedule };
    },
    ...(gated.length > 0 && {
      selection: () => ({
        gates: new Map(
          [...ruleOf].flatMap(([p, at]) => {
            const gate = gateOf(rules[at]!);
            return gate === undefined ? [] : [[p, gate] as const];
          }),
        ),
        choose: (step: number) =>
          Object.fromEntries(
            gated.map((rule) => [gateOf(rule), step >= (rule.from ?? 1) && step <= (rule.to ?? Number.POSITIVE_INFINITY)]),
          ),
      }),
    }),
  };
}

/** A rule as run.json records it. */
export const describeRule = ({ schedule, ...rule }: GroupRule) => ({
  ...rule,
  match: written(rule),
  ...(schedule && { schedule: schedule.name || "a function" }),
});

const badRule = (rule: GroupRule, why: string) => new EspalierError("bad-option", `groups: ${show(written(rule))}: ${why}.`);

/**
 * LoRA+: B learns `ratio` times as fast as A, and so do biases and magnitudes (Hayou, Ghosh and Yu, "LoRA+: Efficient Low Rank Adaptation of Large
 * Models"). The groups are those of PEFT's `create_loraplus_optimizer`; adapted embeddings have a learning rate of their own, 1e-6 there.
 */
export function loraPlus(ratio: number, { embeddingLearningRate = 1e-6 }: { embeddingLearningRate?: number } = {}): GroupRule[] {
  if (!(ratio > 0 && Number.isFinite(ratio)))
    throw new EspalierError("bad-option", `loraPlus: the ratio of the learning rates must be above 0, got ${ratio}.`);
  const embeddings = (p: Parameter) => /(^|\.)lora_embedding_[AB]$/.test(p.name);
  const fast = (p: Parameter) => /(^|\.)lora_B(\.|$)/.test(p.name) || p.shape.length === 1;
  return [
    { match: embeddings, learningRate: embeddingLearningRate, optional: true },
    { match: fast, learningRateFactor: ratio },
  ];
}

/** The learning rate of a group in a step, by the run's peak and schedule. */
export function learningRateOf(
  group: ParameterGroup,
  { peak, schedule, step, steps }: { peak: number; schedule: Schedule | undefined; step: number; steps: number },
): number {
  const factor = (group.schedule ?? schedule)?.(step, steps) ?? 1;
  return (group.learningRate ?? peak) * (group.learningRateFactor ?? 1) * factor;
}
