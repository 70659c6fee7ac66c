import type { BatchSource } from "../../data/index.ts";
import type { CausalLM, SequenceClassifier } from "../../models/causal-lm.ts";
import type { Objective } from "../objectives/index.ts";

/** A model, what it learns from and how well it does: what the command trains and evaluates. */
export interface Task {
  readonly name: TaskRecord["task"];
  readonly model: CausalLM | SequenceClassifier;
  readonly objective: Objective;
  readonly train: BatchSource;
  /** Size and treatment of the data in words, truncation included: nothing is dropped silently. */
  readonly notes: readonly string[];
  /** The key of {@link evaluate}'s result that answers "how good is it?". */
  readonly metric: string;
  /** Measures the present weights on the held-out data. */
  evaluate(onProgress?: (done: number, of: number) => void): Promise<Readonly<Record<string, number>>>;
  /** What must be known to use the trained adapter again; saved beside it as espalier.json. */
  readonly record: TaskRecord;
  dispose(): Promise<void>;
}

export type TaskRecord =
  | { task: "classification"; labels: readonly string[]; template: string; maxLength: number; positive?: string }
  | { task: "language-modeling"; sequenceLength: number }
  | { task: "chat"; maxLength: number; chatFormat?: string };
