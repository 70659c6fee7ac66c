import { z } from "zod";
import { EspalierError } from "../../graph/errors.ts";

export const chatRoles = ["system", "user", "assistant", "tool"] as const;
export type ChatRole = (typeof chatRoles)[number];

/** A piece of a message: a text, or whatever else the model takes in. */
export interface ChatPart {
  type: string;
  text?: string;
  [key: string]: unknown;
}

/** One message. Further keys (`name`, `tool_calls`, `reasoning_content`, …) go to the template as they are. */
export interface ChatMessage {
  role: ChatRole;
  /** May be missing where `tool_calls` are given. */
  content?: string | ChatPart[] | null;
  tool_calls?: readonly unknown[];
  [key: string]: unknown;
}

const partSchema = z
  .looseObject({ type: z.string(), text: z.string().optional() })
  .refine(({ type, text }) => type !== "text" || text !== undefined, "a part of type text has no text");

/** What {@link ChatMessage} says, for messages from elsewhere. */
export const chatMessageSchema = z
  .looseObject({
    role: z.enum(chatRoles),
    content: z.union([z.string(), z.array(partSchema).min(1)], { error: "must be a string or a list of parts" }).nullish(),
    tool_calls: z.array(z.unknown()).nullish(),
  })
  .refine(({ content, tool_calls }) => (content ?? undefined) !== undefined || (tool_calls?.length ?? 0) > 0, "has no content");

const messagesSchema = z.array(chatMessageSchema).min(1, "there is no message");

/** The text of a message; of parts, their texts joined. */
export function messageText({ content }: ChatMessage): string {
  return typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
}

/** Names that messages give to what a model thought before it answered; templates read the first, some the second. */
const reasoningKeys = ["reasoning_content", "thinking", "reasoning"];

/**
 * Messages as a template is given them: keys without a value are left out, and reasoning has the names that templates know.
 * Parts become one text where the template does not look into parts.
 */
export function templateMessages(messages: readonly ChatMessage[], source: string, where: string): Record<string, unknown>[] {
  const parsed = messagesSchema.safeParse(messages);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const [index, ...path] = issue!.path;
    const at = index === undefined ? "The conversation" : `Message ${Number(index) + 1}${path.length > 0 ? `, ${path.join(".")}` : ""}`;
    throw new EspalierError("bad-messages", `${at}: ${issue!.message}. A message is {"role": "user", "content": "…"}.`);
  }
  const readsParts = /\.text\b|\[\s*['"]text['"]\s*\]/.test(source);
  return parsed.data.map((message, i) => {
    const given: Record<string, unknown> = Object.fromEntries(
      Object.entries(message).filter(([, value]) => value !== null && value !== undefined),
    );
    if (Array.isArray(message.content) && !readsParts) {
      const other = message.content.find(({ type }) => type !== "text");
      if (other)
        throw new EspalierError(
          "bad-messages",
          `Message ${i + 1} holds a part of type ${JSON.stringify(other.type)}, and ${where} takes text only. Leave it out, or use a model that reads such parts.`,
        );
      given.content = messageText(message as ChatMessage);
    }
    const reasoning = reasoningKeys.map((key) => given[key]).find((value) => value !== undefined);
    return reasoning === undefined ? given : { thinking: reasoning, ...given, reasoning_content: reasoning };
  });
}
