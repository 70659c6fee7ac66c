import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainByteLevelBpe } from "../../src/inputs/index.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../../src/models/families/llama.ts";
import { saveModel } from "../../src/models/index.ts";

const subjects = ["the gardener", "a pear tree", "the old wall", "an apple tree", "the frame", "a young vine"];
const verbs = ["grows along", "is tied to", "leans on", "is pruned beside", "shades"];
const places = ["the south wall", "three wires", "the fence", "a trellis", "the orchard gate"];

/** Distinct sentences: 150 of them, in an order of their own. */
export const sentences: readonly string[] = Array.from({ length: 150 }, (_, i) => {
  const k = (i * 67) % 150; // 67 has no factor in common with 150
  return `${subjects[k % 6]} ${verbs[Math.floor(k / 6) % 5]} ${places[Math.floor(k / 30)]}.`;
});

/** A random Llama of 300 tokens, 32 wide, 2 layers, with a tokenizer: what a user downloads, in 100 kB. */
export function writeTinyModel(directory: string, { context = 64 } = {}): string {
  const specialTokens = ["<|end|>", "<|pad|>"];
  const tokenizer = trainByteLevelBpe(sentences, { vocabSize: 300, specialTokens });
  const config = llamaConfigSchema.parse({
    vocab_size: 300,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: context,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 0,
    pad_token_id: 1,
  });
  saveModel(directory, new LlamaForCausalLM(config, 7));
  writeFileSync(join(directory, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(
    join(directory, "tokenizer_config.json"),
    JSON.stringify({ tokenizer_class: "PreTrainedTokenizerFast", bos_token: "<|end|>", eos_token: "<|end|>", pad_token: "<|pad|>" }),
  );
  return directory;
}

/** Sentences about trees and others, easily told apart, as lines of JSON. */
export function writeLabelled(file: string, count = 60): string {
  const lines = sentences.slice(0, count).map((text) => JSON.stringify({ text, label: text.includes("tree") ? "tree" : "other" }));
  writeFileSync(file, `${lines.join("\n")}\n`);
  return file;
}

export function writeText(file: string): string {
  writeFileSync(file, sentences.join(" "));
  return file;
}
