/** Every task that a model can be trained for. */
import { EspalierError } from "../../graph/index.ts";
import type { Family } from "../../models/family.ts";
import { type ChatRecord, chat } from "./chat.ts";
import { type ClassificationRecord, classification } from "./classification.ts";
import { type CtcRecord, ctc } from "./ctc.ts";
import { type ImageClassificationRecord, imageClassification } from "./image-classification.ts";
import type { DataSample, TaskKind } from "./kind.ts";
import { type LanguageRecord, languageModeling } from "./language-modeling.ts";
import { type MaskedRecord, maskedLM } from "./masked-lm.ts";
import { type MultiLabelRecord, multiLabel } from "./multi-label.ts";
import { type PreferenceRecord, preference } from "./preference.ts";
import { type RegressionRecord, regression } from "./regression.ts";
import { type SimilarityRecord, sentenceSimilarity } from "./sentence-similarity.ts";
import { type Seq2SeqRecord, seq2seq } from "./seq2seq.ts";
import { type TokenClassificationRecord, tokenClassification } from "./token-classification.ts";

/** A row, whatever its examples, record and model are. */
// biome-ignore lint/suspicious/noExplicitAny: the table forgets what each row's own parts are; a row's functions get what its other functions made.
export type AnyTaskKind = TaskKind<any, any, any>;

/** What espalier.json may hold. */
export type TaskRecord =
  | ChatRecord
  | ClassificationRecord
  | RegressionRecord
  | TokenClassificationRecord
  | LanguageRecord
  | MaskedRecord
  | Seq2SeqRecord
  | ImageClassificationRecord
  | CtcRecord
  | MultiLabelRecord
  | PreferenceRecord
  | SimilarityRecord;

/** In this order data are recognised. */
export const taskKinds: readonly AnyTaskKind[] = [
  chat,
  preference,
  sentenceSimilarity,
  tokenClassification,
  imageClassification,
  ctc,
  multiLabel,
  classification,
  regression,
  seq2seq,
  languageModeling,
  maskedLM,
];

export const taskNames: readonly string[] = taskKinds.map(({ name }) => name);

export const taskKind = (name: string): AnyTaskKind | undefined => taskKinds.find((kind) => kind.name === name);

/** The tasks that models of a family can be trained for. */
export const tasksOf = (family: Family): AnyTaskKind[] => taskKinds.filter(({ needs }) => family[needs]);

/**
 * The task that is named, or the first one that the data look like and the model can do.
 * @throws EspalierError `unsupported-task`, naming the tasks that the model can do
 */
export function chooseTask(name: string | undefined, sample: () => DataSample, family: Family, model: string): AnyTaskKind {
  const able = tasksOf(family);
  const list = able.map((kind) => `${kind.name} (${kind.data})`).join("; ");
  if (name !== undefined) {
    const kind = taskKind(name);
    if (!kind) throw new EspalierError("bad-option", `There is no task ${JSON.stringify(name)}; there are ${taskNames.join(", ")}.`);
    if (able.includes(kind)) return kind;
    throw new EspalierError(
      "unsupported-task",
      `${model}: a ${family.name} model cannot be trained for ${name}. ${able.length > 0 ? `It can be for: ${list}.` : "It can be for no task of this command."}`,
    );
  }
  const found = sample();
  const kind = able.find((kind) => kind.recognises(found));
  if (kind) return kind;
  throw new EspalierError(
    "unsupported-task",
    `${model}: the data look like none of the tasks that a ${family.name} model can be trained for. ${able.length > 0 ? `Those are: ${list}. --task names one.` : ""}`.trim(),
  );
}
