import { Option } from "commander";
import { type ChatTemplate, chatFormatNames } from "../inputs/index.ts";
import { chatTemplateFromDirectory } from "../inputs/text/chat-template-directory.ts";
import type { TaskRecord } from "../train/tasks/table.ts";

export const chatFormatOption = (): Option =>
  new Option("--chat-format <name>", "built-in chat format in place of the model's own template").choices([...chatFormatNames]);

/** The template of a model: the format that is asked for, or that an adapter was trained with, or the model's own. */
export function chatTemplateOf(model: string, asked: string | undefined, record?: TaskRecord): ChatTemplate {
  return chatTemplateFromDirectory(model, { format: asked ?? (record?.task === "chat" ? record.chatFormat : undefined) });
}
