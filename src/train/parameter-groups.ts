import { z } from "zod";
import { EspalierError, nearestNames, show } from "../graph/index.ts";
import type { Parameter } from "../nn/index.ts";
import type { Method } from "./method.ts";
import type { ParameterGroup } from "./optimizers/index.ts";
import type { Schedule } from "./schedules.ts";

const rate = z.number().nonnegative().optional();
const step = z.int().min(1).optional();
const isFunction = (value: unknown): boolean => typeof value === "function";

/** Parameters that a run sets apart by their names, and what is different for them. */
export const groupRuleSchema = z.strictObject({
  /**
   * A pattern for the whole name, in which `*` stands for any characters; a regular expression that finds something in the name; or a question about the
   * parameter. Of several rules that fit a parameter the first counts.
   */
  match: z.union(
    [z.string().min(1), z.instanceof(RegExp), z.custom<(parameter: Parameter) => boolean>(isFunction)],
    "must be a pattern, a regular expression or a function",
  ),
  /** Peak learning rate, in place of the run's. */
  learningRate: rate,
  /** Factor on the peak learning rate. Default 1. */
  learningRateFactor: rate,
  /** In place of the optimizer's weight decay. */
  weightDecay: rate,
  /** In place of the run's schedule. */
  schedule: z.custom<Schedule>(isFunction, "must be a function, as schedule(…) makes it").optional(),
  /** The first step that updates these parameters, and the last. In the others they cost neither gradients nor updates. Default: all. */
  from: step,
  to: step,
  /** Whether it may fit no trained parameter. Default false: that is an error. */
  optional: z.boolean().optional(),
});

export type GroupRule = z.input<typeof groupRuleSchema>;

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

function checkRule(rule: GroupRule): void {
  const { success, error } = groupRuleSchema.safeParse(rule);
  if (!success) throw badRule(rule, error.issues.map(({ path, message }) => `${path.join(".") || "options"}: ${message}`).join("; "));
  const { from = 1, to = Number.POSITIVE_INFINITY } = rule;
  if (to < from) throw badRule(rule, `the last step (to ${to}) must not be before the first (from ${from})`);
}

/**
 * Rules as a method, so that they compose with those of other methods: factors multiply, and of rates, decays and schedules the last counts.
 *
 * @throws EspalierError `no-parameter` when a rule fits no trained parameter, `bad-option` for an unknown key or a wrong value
 */
export function parameterGroups(rules: readonly GroupRule[], parameters: readonly Parameter[]): Method {
  for (const rule of rules) checkRule(rule);
  const ruleOf = new Map<Parameter, number>();
  for (const p of parameters) {
    const at = rules.findIndex((rule) => fits(rule, p));
    if (at >= 0) ruleOf.set(p, at);
  }
  const names = parameters.map(({ name }) => name);
  for (const [at, rule] of rules.entries()) {
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
