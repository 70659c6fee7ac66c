export { estimateStep, type StepEstimate } from "./estimate.ts";
export { Evaluator } from "./evaluate.ts";
export { applyWeights, type GroupOptions, type Method, type SaveContext, type Selection, type StepContext } from "./method.ts";
export * from "./metrics/index.ts";
export * from "./objectives/index.ts";
export {
  type AdamWOptions,
  adamW,
  type Optimizer,
  type OptimizerState,
  oneGroup,
  type ParameterGroup,
  type SgdOptions,
  sgd,
} from "./optimizers/index.ts";
export { type Schedule, type ScheduleName, schedule } from "./schedules.ts";
export { chatTask } from "./tasks/chat.ts";
export { Classifier, classificationTask } from "./tasks/classification.ts";
export { languageModelingTask } from "./tasks/language-modeling.ts";
export type { Task } from "./tasks/task.ts";
export type { StepReport, TrainOptions, TrainResult } from "./train-options.ts";
export { train } from "./trainer.ts";
