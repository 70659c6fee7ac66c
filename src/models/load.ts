/** A Hugging Face directory → a model with its weights. They stay in their files: a device maps frozen float32 ones from there and widens the others when it needs them. */
import type { Checkpoint } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { CausalLM, SequenceClassifier } from "./causal-lm.ts";
import { checkLabels, fill, modulesOf, openFamily, startAlike } from "./family-checkpoint.ts";
import { readEndIds } from "./generation-config.ts";

/**
 * Loads a language model. Nothing is frozen: freeze what is not to be trained, and it becomes a constant that all sessions share.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `unsupported-task`, `bad-config`, `unsupported-rope`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadCausalLM(directory: string): CausalLM {
  const opened = openFamily(directory, "causalLM");
  const model: CausalLM = opened.build(opened.config);
  const head = `${model.headPath}.weight`;
  if (!model.head) checkTiedHead(opened.checkpoint, head, model.decoder.embedding.weight.name);
  fill(model, opened, model.head ? {} : { unused: head });
  model.endIds = readEndIds(opened.checkpoint);
  return model;
}

/**
 * Loads a classifier. A directory of a language model will do: its head is left out and the classification head is freshly initialised.
 *
 * @param labels the classes in the order of the head's outputs
 * @throws EspalierError as {@link loadCausalLM}, and `labels-mismatch` where the checkpoint names other classes
 */
export function loadSequenceClassifier(directory: string, labels: readonly string[], options: { seed?: number } = {}): SequenceClassifier {
  const opened = openFamily(directory, "sequenceClassifier");
  const model: SequenceClassifier = opened.build(opened.config, labels.length, options.seed);
  model.headIsFresh = !opened.checkpoint.tensors.has(`${model.head.path}.weight`);
  if (!model.headIsFresh) checkLabels(opened.config, labels, directory);
  model.freshModules = modulesOf(fill(model, opened, { otherHeads: true }));
  return model;
}

/** Some tools write a tied head out as well. */
function checkTiedHead({ directory, tensors }: Checkpoint, head: string, embedding: string): void {
  if (startAlike(tensors.get(head), tensors.get(embedding)) ?? true) return;
  throw new EspalierError(
    "checkpoint-mismatch",
    `${directory}: config.json ties the head to the embedding ("tie_word_embeddings"), but ${head} holds other values than ${embedding}. Set "tie_word_embeddings": false if the head was trained apart, or remove ${head}.`,
  );
}
