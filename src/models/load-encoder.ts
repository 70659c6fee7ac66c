/** A Hugging Face directory → a text encoder with the head of a task. */
import { EspalierError } from "../graph/index.ts";
import { checkLabels, fill, modulesOf, openFamily } from "./family-checkpoint.ts";
import { readPooling } from "./pooling.ts";
import type { MaskedLM, SentenceEncoder, TokenClassifier } from "./text-encoder.ts";

/**
 * Loads a masked language model.
 * @throws EspalierError as `loadCausalLM`, and `no-masked-head` for the checkpoint of an encoder without the head that guesses words
 */
export function loadMaskedLM(directory: string): MaskedLM {
  const opened = openFamily(directory, "maskedLM");
  const model: MaskedLM = opened.build(opened.config);
  const { family, checkpoint } = opened;
  const head = Array.from(model.namedParameters(), ([name]) => name).filter((name) => !name.startsWith(`${family.prefix}.`));
  if (head.length > 0 && !head.some((name) => checkpoint.tensors.has(name)))
    throw new EspalierError(
      "no-masked-head",
      `${directory} holds an encoder without the head that guesses hidden words (none of ${head.join(", ")} is there). Take a checkpoint that has one, such as that of a BertForMaskedLM.`,
    );
  fill(model, opened, {});
  return model;
}

/** Loads a classifier of tokens, as `loadSequenceClassifier` one of sequences. */
export function loadTokenClassifier(directory: string, labels: readonly string[], options: { seed?: number } = {}): TokenClassifier {
  const opened = openFamily(directory, "tokenClassifier");
  const model: TokenClassifier = opened.build(opened.config, labels.length, options.seed);
  model.headIsFresh = !opened.checkpoint.tensors.has(`${model.head.path}.weight`);
  if (!model.headIsFresh) checkLabels(opened.config, labels, directory);
  model.freshModules = modulesOf(fill(model, opened, { otherHeads: true }));
  return model;
}

/**
 * Loads an encoder of texts into vectors. How it pools is read from the files that sentence-transformers writes beside a model
 * (`1_Pooling/config.json`, `modules.json`); without them states are averaged and vectors scaled to length 1.
 *
 * @throws EspalierError as `loadCausalLM`, and `unsupported-pooling`
 */
export function loadSentenceEncoder(directory: string): SentenceEncoder {
  const opened = openFamily(directory, "sentenceEncoder");
  const model: SentenceEncoder = opened.build(opened.config);
  fill(model, opened, { otherHeads: true });
  return Object.assign(model, readPooling(directory));
}
