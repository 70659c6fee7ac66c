export { type AvailableMemory, availableMemory } from "./available-memory.ts";
export { estimateStep, type StepEstimate } from "./estimate.ts";
export { Evaluator } from "./evaluate.ts";
export { type MemorySettings, memoryAdvice, memoryProposals, type Proposal } from "./memory-advice.ts";
export { applyWeights, type GroupOptions, type Method, type SaveContext, type Selection, type StepContext } from "./method.ts";
export * from "./metrics/index.ts";
export { timingFields } from "./metrics-log.ts";
export * from "./objectives/index.ts";
export {
  type AdafactorOptions,
  type AdamWOptions,
  type AverageOptions,
  adafactor,
  adamW,
  averaged,
  type LionOptions,
  lion,
  type MuonOptions,
  muon,
  type Optimizer,
  type OptimizerFactory,
  type OptimizerState,
  oneGroup,
  optimizerByName,
  optimizerNames,
  optimizers,
  type ParameterGroup,
  type SgdOptions,
  type Slot,
  type SlotUpdate,
  type StateDtype,
  sgd,
  swapAverages,
} from "./optimizers/index.ts";
export { type GroupRule, loraPlus } from "./parameter-groups.ts";
export { type ProfileFiles, StepProfiler, type StepProfilerOptions } from "./profile/index.ts";
export { lockRun, type RunLock } from "./run-lock.ts";
export { type Schedule, type ScheduleName, schedule } from "./schedules.ts";
export { type Executor, type Handlers, type Job, LocalExecutor } from "./search/executor.ts";
export { choice, type Dimension, grid, logUniform, type Space, sample, uniform, type Values, wholeNumber } from "./search/space.ts";
export { type HalvingOptions, ranked, rungShares, successiveHalving, type TrialResult } from "./search/successive-halving.ts";
export { chatTask } from "./tasks/chat.ts";
export { classificationTask } from "./tasks/classification.ts";
export { Classifier } from "./tasks/classifier.ts";
export { ctcTask } from "./tasks/ctc.ts";
export { imageClassificationTask } from "./tasks/image-classification.ts";
export { languageModelingTask } from "./tasks/language-modeling.ts";
export { maskedTask } from "./tasks/masked-lm.ts";
export { multiLabelTask } from "./tasks/multi-label.ts";
export { preferenceTask } from "./tasks/preference.ts";
export { regressionTask } from "./tasks/regression.ts";
export { sentenceSimilarityTask } from "./tasks/sentence-similarity.ts";
export { seq2seqTask } from "./tasks/seq2seq.ts";
export type { Task } from "./tasks/task.ts";
export { tokenClassificationTask } from "./tasks/token-classification.ts";
export type { RunMilliseconds, StepReport, TrainOptions, TrainResult } from "./train-options.ts";
export { train } from "./trainer.ts";
export { estimateTraining, trainingMemory } from "./training-memory.ts";
