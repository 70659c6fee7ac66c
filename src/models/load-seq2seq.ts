/** A Hugging Face directory → a sequence-to-sequence model. */
import { fill, openFamily } from "./family-checkpoint.ts";
import type { Seq2SeqLM, TextSource } from "./seq2seq.ts";

/** Loads an encoder–decoder that reads and writes text. Throws as `loadCausalLM` does. */
export function loadSeq2SeqLM(directory: string): Seq2SeqLM<TextSource> {
  const opened = openFamily(directory, "seq2seq");
  const model: Seq2SeqLM<TextSource> = opened.build(opened.config, { ownHead: opened.checkpoint.tensors.has("lm_head.weight") });
  fill(model, opened, {});
  return model;
}
