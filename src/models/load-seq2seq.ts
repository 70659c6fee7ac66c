/** A Hugging Face directory → a sequence-to-sequence model. */
import { fill, openFamily, startAlike } from "./family-checkpoint.ts";
import { readEndIds } from "./generation-config.ts";
import type { Seq2SeqLM, TextSource } from "./seq2seq.ts";

/** Loads an encoder–decoder that reads and writes text. Throws as `loadCausalLM` does. */
export function loadSeq2SeqLM(directory: string): Seq2SeqLM<TextSource> {
  const opened = openFamily(directory, "seq2seq");
  const { tensors } = opened.checkpoint;
  const head = tensors.get("lm_head.weight");
  const { tie_word_embeddings: tied } = opened.config as { tie_word_embeddings?: boolean };
  // transformers 5 says "tied" of all T5s; those with a head of its own in the file have one.
  const copied = tied === true && startAlike(head, tensors.get("shared.weight"));
  const model: Seq2SeqLM<TextSource> = opened.build(opened.config, { ownHead: head !== undefined && !copied });
  fill(model, opened, { unused: "lm_head.weight" });
  model.endIds = readEndIds(opened.checkpoint);
  return model;
}
