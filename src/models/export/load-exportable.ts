import { z } from "zod";
import { openCheckpoint } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { familyOf } from "../families/index.ts";
import { namedLabels } from "../family-checkpoint.ts";
import { loadCausalLM, loadSequenceClassifier } from "../load.ts";
import { loadMaskedLM, loadSentenceEncoder, loadTokenClassifier } from "../load-encoder.ts";
import { loadImageClassifier, loadImageModel } from "../load-image.ts";
import { loadSeq2SeqLM } from "../load-seq2seq.ts";
import { loadSpeechSeq2Seq } from "../load-speech.ts";
import { parseConfig } from "../read-config.ts";
import type { ExportableModel } from "./graphs.ts";

/** What tells which head a checkpoint has. */
const headSchema = z.looseObject({
  architectures: z.array(z.string()).nullish(),
  id2label: z.record(z.string(), z.unknown()).nullish(),
  num_labels: z.int().positive().max(1e6).nullish(),
});

/**
 * Loads the model that a directory's configuration names under `architectures`, with its head, frozen.
 *
 * @throws EspalierError `unsupported-task` where no graph can be made of such a model, and what the loaders throw
 */
export function loadExportable(directory: string): ExportableModel {
  const { config: json, configFile } = openCheckpoint(directory);
  const family = familyOf(json, configFile);
  const config = parseConfig(headSchema, json, configFile);
  const [architecture = ""] = config.architectures ?? [];
  const load = (): ExportableModel => {
    if (architecture.endsWith("ForMaskedLM") && family.maskedLM) return loadMaskedLM(directory);
    if (architecture.endsWith("ForTokenClassification")) return loadTokenClassifier(directory, labelsOf(config));
    if (architecture.endsWith("ForSequenceClassification")) return loadSequenceClassifier(directory, labelsOf(config));
    if (family.causalLM) return loadCausalLM(directory);
    if (family.seq2seq) return loadSeq2SeqLM(directory);
    if (family.speechSeq2Seq) return loadSpeechSeq2Seq(directory);
    if (architecture.endsWith("ForImageClassification")) return loadImageClassifier(directory);
    if (family.imageModel) return loadImageModel(directory);
    if (family.sentenceEncoder) return loadSentenceEncoder(directory);
    throw new EspalierError(
      "unsupported-task",
      `${configFile}: ${architecture || family.name} cannot be exported. Decoders and encoders of text with their classifiers, encoder–decoders, Whisper, and encoders and classifiers of images can.`,
    );
  };
  const model = load();
  model.freeze();
  return model;
}

/** The names of the classes; transformers' placeholders where they have none. */
function labelsOf(config: z.output<typeof headSchema>): string[] {
  const { id2label, num_labels } = config;
  return namedLabels(config) ?? Array.from({ length: id2label ? Object.keys(id2label).length : (num_labels ?? 2) }, (_, i) => `LABEL_${i}`);
}
