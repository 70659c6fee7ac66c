/** Tokenizers and chat templates from a checkpoint's directory. Apart from the room's face, which a browser loads. */
export { chatTemplateFromDirectory } from "./chat-template-directory.ts";
export { tokenizerFromDirectory } from "./tokenizer-directory.ts";
