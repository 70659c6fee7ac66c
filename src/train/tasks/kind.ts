/** What a task is to the command: a row of the table in `table.ts`. */
import type { z } from "zod";
import type { Example } from "../../data/index.ts";
import type { Family, Task as ModelTask } from "../../models/family.ts";
import type { SaveableModel } from "../../models/index.ts";
import type { SaveModelOptions } from "../../models/save.ts";
import type { Device } from "../../runtime/index.ts";
import type { DistillationOptions, Objective } from "../objectives/index.ts";
import type { Streaming } from "./streaming.ts";
import type { Task, TaskData } from "./task.ts";

/** The options of a run that tasks look at, under the names that the command gives them. */
export interface TaskOptions {
  /** Tokens per sequence. Default 256. */
  maxLength?: number | undefined;
  textColumn?: string | undefined;
  labelColumn?: string | undefined;
  tokensColumn?: string | undefined;
  sourceColumn?: string | undefined;
  targetColumn?: string | undefined;
  imageColumn?: string | undefined;
  audioColumn?: string | undefined;
  template?: string | undefined;
  positive?: string | undefined;
  chatFormat?: string | undefined;
  buckets?: readonly number[] | "auto" | undefined;
  maxShapes?: number | undefined;
  maskShare?: number | undefined;
  wholeWords?: boolean | undefined;
  packing?: boolean | undefined;
  /** Of sentence similarity; see `ContrastiveOptions`. */
  scale?: number | undefined;
  symmetric?: boolean | undefined;
  chunk?: number | undefined;
  /** Of preferences; see `DirectPreferenceOptions`. */
  preferenceLoss?: "sigmoid" | "hinge" | "ipo" | undefined;
  beta?: number | undefined;
  labelSmoothing?: number | undefined;
  /** A model to learn from as well; see `DistillationOptions`. */
  teacher?: string | undefined;
  teacherShare?: number | undefined;
  temperature?: number | undefined;
}

export const defaultLength = 256;

/** The first record of a data set, from which its task is guessed. */
export interface DataSample {
  /** A directory of images. */
  images: boolean;
  conversations: boolean;
  /** What the first line or row holds; of a .txt file undefined. */
  record: Readonly<Record<string, unknown>> | undefined;
  options: TaskOptions;
}

/** From what a new run decides how the model will be used. */
export interface PlanContext<E extends Example = Example> {
  /** Of the base model. */
  directory: string;
  family: Family;
  config: unknown;
  /** Empty where a model is only measured. */
  train: readonly E[];
  heldOut: readonly E[];
  /** How many training examples have each label, where they are not in memory and {@link train} is empty. */
  labels?: ReadonlyMap<string, number>;
  options: TaskOptions;
  /** The record that lies beside the base model. */
  previous: { readonly task: string } | undefined;
}

/** A model and what makes its inputs. */
export interface Loaded {
  readonly model: SaveableModel;
}

/** One thing to predict from, and where it comes from. */
export interface PredictionInput<I = unknown> {
  input: I;
  file: string;
  /** Of a file with several. */
  line?: number;
}

export interface PredictionResult {
  /** For a person, in one line. */
  shown: string;
  /** For a program. */
  fields: Readonly<Record<string, unknown>>;
}

/** A trained model ready to be asked. */
export interface Predictor<I = unknown> {
  /** @throws EspalierError where a file is not of a kind that the task reads */
  read(file: string): Promise<PredictionInput<I>[]>;
  /** One result for each input, and what is to be said of what was cut. */
  predict(inputs: readonly I[]): Promise<{ results: PredictionResult[]; notes: readonly string[] }>;
  dispose(): Promise<void>;
}

/** All that is particular to a task. The command knows tasks by their rows only. */
export interface TaskKind<E extends Example, R extends { readonly task: string }, L extends Loaded> {
  readonly name: R["task"];
  /** What is learnt, for help and messages: "one label for each text". */
  readonly summary: string;
  /** What data look like, for messages: `{"text": "…", "label": "…"}`. */
  readonly data: string;
  /** The model that is adapted, by its builder in the table of families. */
  readonly needs: ModelTask;
  /** The options that it looks at, besides those of every run. */
  readonly options: readonly (keyof TaskOptions)[];
  /** Of espalier.json: what must be known to use a trained model again. */
  readonly record: z.ZodType<R>;
  /** Whether data are this task's where nobody names one. Asked in the order of the table, of tasks that the model can do. */
  recognises(sample: DataSample): boolean;
  read(path: string, options: TaskOptions): E[];
  /** Whether its model has no head of its own, and may be measured for other tasks as well. */
  readonly interchangeable?: true;
  /** Whether the end of a single long text may be held out. */
  readonly cutsTexts?: true;
  /** How a new run uses its model. */
  plan(context: PlanContext<E>): R;
  load(directory: string, record: R): Promise<L>;
  /** Gives a new head better values than random ones, before a run. */
  begin?(loaded: L, record: R, device: Device): void;
  task(loaded: L, data: TaskData<E>, record: R, device: Device): Task;
  /** For training data that are not in memory; absent where all of them are needed at once. */
  readonly streaming?: Streaming<E, R, L>;
  /** What is learnt in the place of {@link task}'s objective where there is a teacher. Absent for tasks without one. */
  distilled?(student: L, teacher: L, options: DistillationOptions): Objective;
  /** What the configuration of a whole trained model says of its head. */
  saved?(record: R): Pick<SaveModelOptions, "labels" | "problemType">;
  /** The record with another length; absent where nothing is read in tokens. */
  withLength?(record: R, length: number): R;
  /** An example as the predictor takes it, as a person reads it, and what the data say of it: for reports. */
  sample?(example: E): { input: unknown; shown: string; expected?: string };
  /** Absent where `espalier generate` or `espalier chat` answers. */
  predictor?(loaded: L, record: R, device: Device): Predictor;
}
