import { EspalierError, type Tensor } from "../../graph/index.ts";
import { type Module, outOfTraining, withoutAdapters } from "../../nn/index.ts";
import { add, cast, crossEntropyOfHead, div, greater, maximum, mul, neg, softplus, split, sub, sum } from "../../ops/index.ts";
import type { Objective } from "./objective.ts";

type LanguageModel = Module & { forward(inputs: { ids: Tensor }): { hidden: Tensor }; logits(hidden: Tensor): Tensor };

export interface DirectPreferenceOptions {
  /**
   * What is made of β · (how much more the policy prefers the chosen answer than the reference does):
   * "sigmoid", −log σ (Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model"); "hinge", max(0, 1 − …) (Zhao et
   * al., "SLiC-HF"); "ipo", the squared distance of the preference per token from 1/(2β) (Azar et al., "A General Theoretical Paradigm to Understand
   * Learning from Human Preferences"). Default "sigmoid".
   */
  loss?: "sigmoid" | "hinge" | "ipo";
  /** How dear it is to leave the reference. Default 0.1. */
  beta?: number;
  /** Share of pairs that are taken to be labelled the wrong way round, of the sigmoid loss, in [0, 0.5) (Mitchell, "A note on DPO with noisy preferences"). Default 0. */
  labelSmoothing?: number;
}

/**
 * Learns which of two answers is the better one, without a reward model. The reference is the model without its adapters, in the same graph; or what
 * is fed as `reference`, log-probabilities that were computed before ({@link completionLogProbabilities}).
 *
 * Inputs: `ids` and `targets` int64 [2 · pairs, time], the chosen ones first and the rejected ones in the same order behind them; targets are −100 but in the
 * answers, and in a row that does not count everywhere. Perhaps `reference` float32 [2 · pairs].
 *
 * Outputs for the evaluation: `chosen` and `rejected` float32 [pairs], the rewards β · log(policy / reference) of the answers.
 *
 * @throws EspalierError `bad-option`; while tracing `no-reference` where none is fed and the model's trained parameters are not all those of adapters
 */
export function directPreference(model: LanguageModel, options: DirectPreferenceOptions = {}): Objective {
  const { loss = "sigmoid", beta = 0.1, labelSmoothing = 0 } = options;
  if (!(beta > 0 && Number.isFinite(beta)))
    throw new EspalierError("bad-option", `directPreference: beta must be a number above 0, not ${beta}.`);
  if (!(labelSmoothing >= 0 && labelSmoothing < 0.5) || (labelSmoothing > 0 && loss !== "sigmoid"))
    throw new EspalierError(
      "bad-option",
      `directPreference: labelSmoothing lies in [0, 0.5) and belongs to the sigmoid loss; got ${labelSmoothing} with "${loss}".`,
    );
  const lossOf = (margin: Tensor, perToken: Tensor): Tensor => {
    if (loss === "hinge") return maximum(sub(1, mul(margin, beta)), 0);
    if (loss === "ipo") {
      const distance = sub(perToken, 1 / (2 * beta));
      return mul(distance, distance);
    }
    const right = softplus(mul(margin, -beta)); // −log σ(β·margin)
    return labelSmoothing === 0 ? right : add(mul(right, 1 - labelSmoothing), mul(softplus(mul(margin, beta)), labelSmoothing));
  };
  return {
    name: "direct-preference",
    trace({ ids, targets, reference }) {
      const policy = answerLogProbabilities(model, ids!, targets!);
      const fixed = reference ?? referenceOf(model, ids!, targets!);
      const ratios = sub(policy.logProbabilities, fixed);
      const [chosen, rejected] = split(ratios, 2, 0) as [Tensor, Tensor];
      const [chosenTokens, rejectedTokens] = split(policy.tokens, 2, 0) as [Tensor, Tensor];
      const perToken = sub(div(chosen, maximum(chosenTokens, 1)), div(rejected, maximum(rejectedTokens, 1)));
      const counts = cast(greater(add(chosenTokens, rejectedTokens), 0), "float32");
      return {
        total: sum(mul(lossOf(sub(chosen, rejected), perToken), counts)),
        weight: sum(counts),
        outputs: { chosen: mul(chosen, beta), rejected: mul(rejected, beta) },
      };
    },
  };
}

/** Of each row, the log-probability of its targets together and how many they are, [rows] each. */
function answerLogProbabilities(model: LanguageModel, ids: Tensor, targets: Tensor): { logProbabilities: Tensor; tokens: Tensor } {
  const { losses, weights } = crossEntropyOfHead(model.logits(model.forward({ ids }).hidden), targets);
  return { logProbabilities: neg(sum(losses, 1)), tokens: sum(weights, 1) };
}

function referenceOf(model: LanguageModel, ids: Tensor, targets: Tensor): Tensor {
  checkReference(model);
  return outOfTraining(() => withoutAdapters(() => answerLogProbabilities(model, ids, targets).logProbabilities));
}

/** Whether the model without its adapters stays what it is while they are trained. Throws `no-reference` where it does not. */
export function checkReference(model: Module): void {
  const adapters = [...model.namedModules()].filter(([, module]) => module.standsOn);
  const own = new Set(
    adapters.flatMap(([, module]) => {
      const below = new Set(module.standsOn!.parameters());
      return module.parameters().filter((parameter) => !below.has(parameter));
    }),
  );
  const changed = model.trainableParameters().find((parameter) => !own.has(parameter));
  if (adapters.length > 0 && !changed) return;
  throw new EspalierError(
    "no-reference",
    `The reference would be the model without its adapters, but ${changed ? `"${changed.name}" of the model itself is trained` : "it has none"}. Train with a method such as lora, or compute the reference's log-probabilities before training and feed them as \`reference\`.`,
  );
}

/**
 * The log-probability of each row's targets together, under the model as it is now: the output `logProbabilities` float32 [rows], for inputs as
 * {@link directPreference} has them.
 */
export const completionLogProbabilities = (model: LanguageModel): Objective => ({
  name: "completion-log-probabilities",
  trace({ ids, targets }) {
    const { logProbabilities, tokens } = answerLogProbabilities(model, ids!, targets!);
    return { total: neg(sum(logProbabilities)), weight: sum(tokens), outputs: { logProbabilities } };
  },
});
