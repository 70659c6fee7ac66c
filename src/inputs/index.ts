/** The face of the room: text to tensors' integers and back. Safe in a browser; reading directories is in `text/tokenizer-directory.ts`. */
export { type ChatFormat, chatFormatNames } from "./text/chat-formats.ts";
export { type ChatMessage, type ChatPart, type ChatRole, chatMessageSchema, chatRoles, messageText } from "./text/chat-messages.ts";
export { ChatTemplate, type ChatTemplateOptions, type RenderOptions } from "./text/chat-template.ts";
export {
  type EncodeChatOptions,
  type EncodedConversation,
  encodeChat,
  encodeConversation,
  type TurnEnd,
  turnEnd,
} from "./text/encode-chat.ts";
export { TextStream, type TextStreamSource } from "./text/text-stream.ts";
export { type DecodeOptions, type EncodeOptions, Tokenizer } from "./text/tokenizer.ts";
export { type TokenizerJson, type TrainBpeOptions, trainByteLevelBpe } from "./text/train-bpe.ts";
