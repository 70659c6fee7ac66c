import type { Example } from "../../data/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { namedLabels } from "../../models/family-checkpoint.ts";
import type { PlanContext } from "./kind.ts";

/** The classes of a run: those of its training data, or where a model is only measured, those that its configuration names. */
export function planLabels({ directory, config, train, heldOut, labels: counted }: PlanContext): string[] {
  if (counted) return checkLabels([...counted.keys()].sort(), heldOut);
  if (train.length > 0) return collectLabels(train, heldOut);
  const labels = namedLabels(config);
  if (!labels)
    throw new EspalierError(
      "no-record",
      `${directory} says neither in espalier.json nor in the id2label of config.json how its labels are called, so nothing can be compared with them. Train it first, or give an --adapter of espalier train.`,
    );
  refuseUnknown(labels, heldOut);
  return labels;
}

/** Refuses examples without a label, or with one that the model does not know. */
export function refuseUnknown(labels: readonly string[], examples: readonly Example[]): void {
  const unknown = examples.find((e) => e.label === undefined || !labels.includes(e.label));
  if (!unknown) return;
  const { file, line, label } = unknown;
  throw new EspalierError(
    "unseen-label",
    `${file} line ${line}: ${label === undefined ? "there is no label" : `the model does not know the label "${label}"`}; it tells ${labels.join(", ")} apart.`,
  );
}

/** The labels of the training examples in alphabetical order; every example must have one, and held-out labels must occur in training. */
function collectLabels(train: readonly Example[], heldOut: readonly Example[]): string[] {
  return checkLabels([...new Set(train.map((e) => e.label))].sort() as string[], heldOut);
}

function checkLabels(labels: string[], heldOut: readonly Example[]): string[] {
  if (labels.length < 2)
    throw new EspalierError(
      "one-label",
      `Classification needs at least two labels in the training data; it has ${labels.length === 1 ? `only "${labels[0]}"` : "none"}.`,
    );
  const bare = heldOut.find((e) => e.label === undefined);
  if (bare)
    throw new EspalierError(
      "no-labels",
      `${bare.file} line ${bare.line}: there is no label, and held-out examples of a classifier need one.`,
    );
  const unseen = heldOut.filter((e) => !labels.includes(e.label!));
  if (unseen.length > 0) {
    const [first] = unseen as [Example];
    throw new EspalierError(
      "unseen-label",
      `${first.file} line ${first.line}: the label "${first.label}" never occurs in the training data (${labels.join(", ")}); ${unseen.length} held-out examples have such labels. Add training examples of it or remove them.`,
    );
  }
  return labels;
}
