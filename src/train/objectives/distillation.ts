import { EspalierError, formatShape, type Tensor } from "../../graph/index.ts";
import { type Module, modulesInChunks, outOfTraining, type Parameter } from "../../nn/index.ts";
import {
  add,
  cast,
  crossEntropyPerTarget,
  div,
  equal,
  exp,
  less,
  logicalNot,
  logSoftmax,
  mul,
  range,
  reshape,
  rowsAtOneTime,
  slice,
  sub,
  sum,
  unsqueeze,
  where,
} from "../../ops/index.ts";
import { checkChunk } from "./contrastive.ts";
import { type HiddenStateOptions, HiddenStates, type Run } from "./distillation-states.ts";
import type { Objective } from "./objective.ts";

export interface DistillationOptions {
  /** Both models' logits are divided by this, so that small probabilities count as well. Default 2. */
  temperature?: number;
  /** Share of the loss for the labels themselves, in [0, 1]; the rest is for the teacher's distributions. Default 0.5. */
  alpha?: number;
  /** KL(teacher ‖ student) is "forward"; "reverse", KL(student ‖ teacher), lets the student leave out what it cannot do. Default "forward". */
  divergence?: "forward" | "reverse";
  /** Hidden states that are to agree, too. */
  states?: HiddenStateOptions;
  /** How many classes both models mean the same by, where their tables are padded to other sizes. Default: their numbers of logits must agree. */
  classes?: number;
  /** Of a language model, the number of targets whose logits exist at one time. Default: as many as have 20 million logits. */
  chunk?: number;
}

type LanguageModel = Module & {
  forward(inputs: { ids: Tensor; documentStarts?: Tensor | undefined }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
};
type Classifier = Module & { forward(ids: Tensor, lengths: Tensor): Tensor };

const probeType = { dtype: "int64", shape: [1, 2] } as const;

/**
 * Next-token prediction after a teacher: alpha · cross-entropy + (1 − alpha) · T² · divergence of the distributions at temperature T (Hinton et al., "Distilling
 * the Knowledge in a Neural Network"), over the targets that count. Both models are in one graph; the teacher is frozen by this. The logits of neither are
 * ever there as a whole: chunks of rows follow one another, each computed once more for its gradient.
 *
 * Inputs: those of {@link causalLanguageModel}.
 *
 * @throws EspalierError `bad-option`, `no-module`; while tracing `distillation` where the numbers of logits differ
 */
export function distilledLanguageModel(student: LanguageModel, teacher: LanguageModel, options: DistillationOptions = {}): Objective {
  const run: Run<LanguageModel> = (model, { ids, documentStarts }) => model.forward({ ids: ids!, documentStarts }).hidden;
  const pair = pairOf(student, teacher, options, { types: { ids: probeType }, run });
  return {
    name: "distilled-causal-lm",
    parameters: pair.parameters,
    trace(inputs) {
      const { mine, theirs, distances } = pair.trace(inputs);
      const { targets } = inputs;
      const rows = (t: Tensor) => reshape(t, [-1, t.shape.at(-1)!]);
      // Never encoded: only the shape is read.
      const limit = options.chunk ?? rowsAtOneTime(student.logits(mine).shape.at(-1)!);
      const [losses] = modulesInChunks({ mine: rows(mine), theirs: rows(theirs), targets: reshape(targets!, [-1]) }, limit, (part) => {
        const teaching = outOfTraining(() => teacher.logits(part.theirs!));
        return [pair.losses(student.logits(part.mine!), teaching, part.targets!)];
      });
      const counted = counts(targets!);
      const total = sum(losses!);
      return { total: distances ? add(total, sum(where(counted, distances, 0))) : total, weight: sum(cast(counted, "float32")) };
    },
  };
}

/**
 * One label per sequence, after a teacher: as {@link distilledLanguageModel}. Hidden states count as their mean over a sequence's tokens.
 *
 * Inputs: those of {@link sequenceClassification}.
 *
 * @throws EspalierError as {@link distilledLanguageModel}
 */
export function distilledClassification(student: Classifier, teacher: Classifier, options: DistillationOptions = {}): Objective {
  const run: Run<Classifier> = (model, { ids, lengths }) => model.forward(ids!, lengths!);
  const types = { ids: probeType, lengths: { dtype: "int64", shape: [1] } } as const;
  const pair = pairOf(student, teacher, options, { types, run });
  return {
    name: "distilled-classification",
    parameters: pair.parameters,
    trace(inputs) {
      const { mine, theirs, distances } = pair.trace(inputs);
      const { ids, lengths, labels } = inputs;
      const counted = counts(labels!);
      const total = sum(pair.losses(mine, theirs, labels!));
      const weight = sum(cast(counted, "float32"));
      if (!distances) return { total, weight, outputs: { logits: mine } };
      const isToken = less(unsqueeze(range(ids!.shape[1]!), 0), unsqueeze(lengths!, 1));
      const ofSequence = div(sum(where(isToken, distances, 0), 1), cast(lengths!, "float32"));
      return { total: add(total, sum(where(counted, ofSequence, 0))), weight, outputs: { logits: mine } };
    },
  };
}

const counts = (targets: Tensor): Tensor => logicalNot(equal(targets, -100));

interface Pair {
  parameters: readonly Parameter[];
  trace(inputs: Readonly<Record<string, Tensor>>): { mine: Tensor; theirs: Tensor; distances?: Tensor };
  /** Logits of student and teacher [rows, classes], targets [rows] → the loss of each target, 0 where it does not count. */
  losses(mine: Tensor, theirs: Tensor, targets: Tensor): Tensor;
}

function pairOf<M extends Module>(
  student: M,
  teacher: M,
  options: DistillationOptions,
  probe: ConstructorParameters<typeof HiddenStates<M>>[3],
): Pair {
  const { temperature = 2, alpha = 0.5, divergence = "forward", classes } = options;
  if (!(temperature > 0 && Number.isFinite(temperature)))
    throw new EspalierError("bad-option", `distillation: the temperature must be a number above 0, not ${temperature}.`);
  if (!(alpha >= 0 && alpha <= 1)) throw new EspalierError("bad-option", `distillation: alpha lies in [0, 1]; got ${alpha}.`);
  checkChunk(options.chunk);
  teacher.freeze();
  const states = options.states && new HiddenStates(student, teacher, options.states, probe);
  const { run } = probe;
  return {
    parameters: states?.parameters ?? [],
    trace: (inputs) => states?.trace(inputs, run) ?? { mine: run(student, inputs), theirs: outOfTraining(() => run(teacher, inputs)) },
    losses(mine, theirs, targets) {
      if (classes === undefined && mine.shape.at(-1) !== theirs.shape.at(-1))
        throw new EspalierError(
          "distillation",
          `The student has logits ${formatShape(mine.shape)} and the teacher ${formatShape(theirs.shape)}: they must mean the same classes. Where only padding differs, say with \`classes\` how many they share.`,
        );
      const own = (logits: Tensor) => logSoftmax(mul(classes === undefined ? logits : slice(logits, -1, 0, classes), 1 / temperature));
      const [p, q] = divergence === "forward" ? [own(theirs), own(mine)] : [own(mine), own(theirs)];
      // By selection, as in a cross-entropy: what does not count must not matter, whatever it is.
      const soft = where(counts(targets), sum(mul(exp(p), sub(p, q)), -1), 0);
      const weighted = mul(soft, (1 - alpha) * temperature * temperature);
      return alpha === 0 ? weighted : add(mul(crossEntropyPerTarget(mine, targets).losses, alpha), weighted);
    },
  };
}
