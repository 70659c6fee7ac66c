import type { Tokenizer } from "../inputs/index.ts";

/** What there is to say where a tokenizer and an embedding differ in size; undefined where they do not. */
export function vocabularyNote(tokenizer: Tokenizer, model: { readonly config: { readonly vocab_size: number } }): string | undefined {
  const [tokens, rows] = [tokenizer.vocabSize, model.config.vocab_size];
  if (rows > tokens)
    return `The embedding has ${rows} rows and the tokenizer ${tokens} tokens: the last ${rows - tokens} rows belong to no token.`;
  if (rows < tokens)
    return `The tokenizer has ${tokens} tokens and the embedding ${rows} rows: text that needs one of the last ${tokens - rows} cannot be read. resizeTokenEmbeddings(model, ${tokens}) makes room.`;
  return undefined;
}
