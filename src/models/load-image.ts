/** A Hugging Face directory → a model of images with its weights. */
import { EspalierError } from "../graph/index.ts";
import type { ClipModel } from "./families/clip.ts";
import { checkLabels, fill, modulesOf, namedLabels, type Opened, openFamily } from "./family-checkpoint.ts";
import type { ImageClassifier, ImageModel } from "./image-model.ts";

/**
 * Loads an encoder of images; heads that the checkpoint may have are left out. Nothing is frozen.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `unsupported-task`, `bad-config`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadImageModel(directory: string): ImageModel {
  const opened = openFamily(directory, "imageModel");
  const model = opened.build(opened.config);
  fill(model, opened, { otherHeads: true });
  return model;
}

/**
 * Loads a classifier of images. A directory of an encoder will do: the head is then freshly initialised.
 *
 * @param labels the classes in the order of the head's outputs; by default those that the checkpoint names
 * @throws EspalierError as {@link loadImageModel}, `labels-mismatch` where the checkpoint names other classes, `labels-missing` where nobody names any
 */
export function loadImageClassifier(directory: string, labels?: readonly string[], options: { seed?: number } = {}): ImageClassifier {
  const opened = openFamily(directory, "imageClassifier");
  const rows = trainedRows(opened);
  if (rows !== undefined && labels) checkLabels(opened.config, labels, directory);
  const names = labels ?? namedLabels(opened.config) ?? Array.from({ length: rows ?? 0 }, (_, i) => `LABEL_${i}`);
  if (names.length === 0) {
    throw new EspalierError(
      "labels-missing",
      `${directory}: holds no classification head and names no classes. Give the labels that the new head is to tell apart.`,
    );
  }
  const model = opened.build(opened.config, names, options.seed);
  model.headIsFresh = rows === undefined;
  model.freshModules = modulesOf(fill(model, opened, { otherHeads: model.headIsFresh }));
  return model;
}

/**
 * Loads a model that compares images with texts. Nothing is frozen.
 *
 * @throws EspalierError as {@link loadImageModel}
 */
export function loadImageTextModel(directory: string): ClipModel {
  const opened = openFamily(directory, "imageTextModel");
  const model = opened.build(opened.config);
  fill(model, opened, {});
  return model;
}

/** Classes of the head that the checkpoint has. */
function trainedRows({ family, checkpoint: { tensors } }: Opened<"imageClassifier">): number | undefined {
  for (const [name, { shape }] of tensors) if (!name.startsWith(`${family.prefix}.`) && name.endsWith("classifier.weight")) return shape[0];
  return undefined;
}
