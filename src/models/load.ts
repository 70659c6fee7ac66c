/** A Hugging Face directory → a model with its weights. They stay in their files: a device maps frozen float32 ones from there and widens the others when it needs them. */
import { type Checkpoint, readStorage } from "../checkpoints/index.ts";
import { EspalierError, type FileStorage } from "../graph/index.ts";
import type { CausalLM, SequenceClassifier } from "./causal-lm.ts";
import { checkLabels, fill, openFamily } from "./family-checkpoint.ts";

/**
 * Loads a language model. Nothing is frozen: freeze what is not to be trained, and it becomes a constant that all sessions share.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `unsupported-task`, `bad-config`, `unsupported-rope`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadCausalLM(directory: string): CausalLM {
  const opened = openFamily(directory, "causalLM");
  const model: CausalLM = opened.build(opened.config);
  if (!model.head) checkTiedHead(opened.checkpoint, model.decoder.embedding.weight.name);
  fill(model, opened, model.head ? {} : { unused: "lm_head.weight" });
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
  fill(model, opened, { otherHeads: true });
  return model;
}

/** Some tools write a tied head out as well. The start of the two tells a copy from a head that was trained apart, at the cost of one page. */
function checkTiedHead({ directory, tensors }: Checkpoint, embeddingName: string): void {
  const head = tensors.get("lm_head.weight");
  const embedding = tensors.get(embeddingName);
  if (head?.kind !== "file" || embedding?.kind !== "file" || head.dtype !== embedding.dtype) return;
  const start = (storage: FileStorage) => {
    const length = Math.min(storage.byteLength, 4096);
    return Buffer.from(readStorage({ ...storage, dtype: "uint8", shape: [length], byteLength: length }) as Uint8Array);
  };
  if (start(head).equals(start(embedding))) return;
  throw new EspalierError(
    "checkpoint-mismatch",
    `${directory}: config.json ties the head to the embedding ("tie_word_embeddings"), but lm_head.weight holds other values than ${embeddingName}. Set "tie_word_embeddings": false if the head was trained apart, or remove lm_head.weight.`,
  );
}
