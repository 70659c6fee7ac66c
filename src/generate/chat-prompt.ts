import { EspalierError } from "../graph/index.ts";
import { type ChatMessage, type ChatTemplate, type EncodeChatOptions, encodeChat, type Tokenizer } from "../inputs/index.ts";

export interface ChatPromptOptions extends Omit<EncodeChatOptions, "addGenerationPrompt"> {
  /** Tokens of prompt and answer together. */
  context: number;
  /** Room that an answer should find, in tokens; at most half of the context is kept free for it. */
  maxNewTokens: number;
}

export interface ChatPrompt {
  ids: number[];
  /** What is left of the conversation. */
  messages: readonly ChatMessage[];
  /** Messages dropped from its beginning. */
  dropped: number;
}

/**
 * What the model reads to answer the last message. Where that is too long for the context, the oldest turns are dropped, each from a user's
 * message to the next; what the system says first stays.
 * @throws EspalierError `context-overflow` when the last message alone leaves no room for an answer; what rendering throws
 */
export function chatPrompt(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  { context, maxNewTokens, ...options }: ChatPromptOptions,
): ChatPrompt {
  const limit = Math.max(1, context - Math.min(maxNewTokens, Math.floor(context / 2)));
  let left = messages;
  while (true) {
    const ids = encodeChat(tokenizer, template, left, { ...options, addGenerationPrompt: true });
    const shorter = ids.length > limit ? withoutOldestTurn(left) : undefined;
    if (!shorter) {
      if (ids.length < context) return { ids, messages: left, dropped: messages.length - left.length };
      throw new EspalierError(
        "context-overflow",
        `The message takes ${ids.length} tokens with what the chat template and the system say, and with at least one token of an answer that must fit the model's context of ${context}. Shorten it by ${ids.length - context + 1} tokens.`,
      );
    }
    left = shorter;
  }
}

/** Undefined when only the last turn is left. */
function withoutOldestTurn(messages: readonly ChatMessage[]): readonly ChatMessage[] | undefined {
  const first = messages.findIndex(({ role }) => role !== "system");
  const next = messages.findIndex(({ role }, i) => i > first && role === "user");
  return first < 0 || next < 0 ? undefined : [...messages.slice(0, first), ...messages.slice(next)];
}
