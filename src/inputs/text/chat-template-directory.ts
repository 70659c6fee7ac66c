/** Finds a checkpoint's chat template. Apart from `chat-template.ts`, so that a browser build need not know a file system. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { findGguf, GgufFile, ggufTokenizer } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/errors.ts";
import { parseJson } from "../../graph/parse-json.ts";
import { refuseIrregular } from "../../runtime/regular-file.ts";
import { chatFormatNames } from "./chat-formats.ts";
import { ChatTemplate } from "./chat-template.ts";

const templateSchema = z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() })).min(1)], {
  error: "chat_template must be a text, or a list of {name, template}",
});
const tokenText = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();

/**
 * The template of a model directory: `chat_template.jinja` (with the named ones in `additional_chat_templates/`), else `chat_template` in
 * `tokenizer_config.json`, else in `chat_template.json`; of a GGUF file the one in it. With `format` the built-in format of that name instead.
 * @throws EspalierError `chat-template-missing` when the model has none, `chat-template-broken`
 */
export function chatTemplateFromDirectory(directory: string, { format }: { format?: string | undefined } = {}): ChatTemplate {
  const gguf = existsSync(directory) ? findGguf(directory) : undefined;
  const configFile = gguf ?? join(directory, "tokenizer_config.json");
  const config = gguf === undefined ? readJson(configFile) : ggufTokenizer(GgufFile.open(gguf)).config;
  const specialTokens = namedTokens({ ...readJson(join(directory, "special_tokens_map.json")), ...config });
  if (format !== undefined) return ChatTemplate.builtIn(format, { specialTokens });
  const jinja = join(directory, "chat_template.jinja");
  if (existsSync(jinja)) return new ChatTemplate({ default: readText(jinja), ...additional(directory) }, { specialTokens, where: jinja });
  for (const [file, json] of [
    [configFile, config],
    [join(directory, "chat_template.json"), readJson(join(directory, "chat_template.json"))],
  ] as const) {
    if (json?.chat_template === undefined || json.chat_template === null) continue;
    const where = `${file}: chat_template`;
    const parsed = templateSchema.safeParse(json.chat_template);
    if (!parsed.success) throw new EspalierError("chat-template-broken", `${where}: ${parsed.error.issues[0]!.message}.`);
    const named = parsed.data;
    const sources = typeof named === "string" ? named : Object.fromEntries(named.map(({ name, template }) => [name, template]));
    return new ChatTemplate(sources, { specialTokens, where });
  }
  throw new EspalierError(
    "chat-template-missing",
    `${directory} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): it was not made to chat, or its files are incomplete. To use a built-in format all the same, ask for it: --chat-format ${chatFormatNames.join(" or ")}.`,
  );
}

function additional(directory: string): Record<string, string> {
  const folder = join(directory, "additional_chat_templates");
  if (!existsSync(folder)) return {};
  const files = readdirSync(folder).filter((name) => name.endsWith(".jinja"));
  return Object.fromEntries(files.sort().map((name) => [name.slice(0, -".jinja".length), readText(join(folder, name))]));
}

/** `bos_token`, `eos_token` and so on, as text. */
function namedTokens(json: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(json).flatMap(([name, value]) => {
      if (!name.endsWith("_token")) return [];
      const token = tokenText.safeParse(value).data;
      const text = typeof token === "string" ? token : token?.content;
      return text === undefined ? [] : [[name, text]];
    }),
  );
}

function readJson(file: string): Record<string, unknown> | undefined {
  if (!existsSync(file)) return undefined;
  try {
    const value = parseJson(readText(file));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
    throw new Error("it holds no object");
  } catch (cause) {
    if (cause instanceof EspalierError) throw cause;
    throw new EspalierError(
      "chat-template-broken",
      `${file} is not valid JSON (${(cause as Error).message}). Copy the file from the original checkpoint again.`,
      { cause },
    );
  }
}

function readText(file: string): string {
  try {
    refuseIrregular(file);
    return readFileSync(file, "utf8").replace(/^\ufeff/, "");
  } catch (cause) {
    throw new EspalierError("chat-template-unreadable", `${file} cannot be read (${(cause as NodeJS.ErrnoException).code}).`, { cause });
  }
}
