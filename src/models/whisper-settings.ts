/** What a Whisper checkpoint says of the answers that it writes: how they begin and end, and what is never in them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../checkpoints/index.ts";
import { EspalierError, fewProblems, nearestNames } from "../graph/index.ts";

const id = z.int().nonnegative();
const ids = z.record(z.string(), id).nullish();

const schema = z.looseObject({
  eos_token_id: z.union([id, z.array(id)]),
  suppress_tokens: z.array(z.int()).nullish(),
  begin_suppress_tokens: z.array(z.int()).nullish(),
  forced_decoder_ids: z.array(z.tuple([z.int(), id.nullable()])).nullish(),
  /** `<|en|>` → id; absent in models of one language. */
  lang_to_id: ids,
  /** `transcribe` and `translate` → id. */
  task_to_id: ids,
  no_timestamps_token_id: id.nullish(),
});

export interface WhisperSettings {
  /** Tokens that end an answer. */
  endIds: readonly number[];
  /** Tokens that are never written. */
  suppress: readonly number[];
  /** Tokens that are not written first. */
  suppressFirst: readonly number[];
  /** Tokens that begin the answer, after the model's own start token; of a list the likeliest: the language that is heard. */
  prefix: readonly (number | readonly number[])[];
}

/**
 * Reads `generation_config.json`, or for older checkpoints `config.json`. Answers are without time stamps.
 *
 * @param options.language a code such as `"de"`; by default the language that is heard
 * @param options.task default `"transcribe"`; `"translate"` writes English
 * @throws EspalierError `checkpoint-missing`, `bad-config`, `bad-option` for a language or task that the checkpoint does not have
 */
export function whisperSettings(
  directory: string,
  options: { language?: string; task?: "transcribe" | "translate" } = {},
): WhisperSettings {
  const generation = join(directory, "generation_config.json");
  const file = existsSync(generation) ? generation : join(directory, "config.json");
  const parsed = schema.safeParse(readJsonObject(file));
  if (!parsed.success)
    throw new EspalierError(
      "bad-config",
      `${file}: ${fewProblems(parsed.error.issues.map((i) => `"${i.path.join(".")}": ${i.message}`)).join("; ")}`,
    );
  const settings = parsed.data;
  const { eos_token_id: end, lang_to_id: languages, task_to_id: tasks, no_timestamps_token_id: plain } = settings;
  const known = (what: string, table: Record<string, number>, name: string) => {
    const found = table[name];
    if (found !== undefined) return found;
    throw new EspalierError(
      "bad-option",
      `${file}: has no ${what} "${name}". Nearest: ${nearestNames(name, Object.keys(table)).join(", ")}.`,
    );
  };
  const language = (): number | number[] => {
    if (options.language === undefined) return Object.values(languages!);
    return known(
      "language",
      Object.fromEntries(Object.entries(languages!).map(([k, v]) => [k.replace(/^<\||\|>$/g, ""), v])),
      options.language,
    );
  };
  if (!languages && options.language !== undefined && options.language !== "en")
    throw new EspalierError("bad-option", `${file}: names no languages; the model hears the one that it was trained for.`);
  const prefix = languages
    ? [language(), known("task", tasks ?? {}, options.task ?? "transcribe"), ...(plain == null ? [] : [plain])]
    : plain != null
      ? [plain]
      : (settings.forced_decoder_ids ?? []).flatMap(([, forced]) => (forced === null ? [] : [forced]));
  return {
    endIds: typeof end === "number" ? [end] : end,
    suppress: (settings.suppress_tokens ?? []).filter((token) => token >= 0),
    suppressFirst: (settings.begin_suppress_tokens ?? []).filter((token) => token >= 0),
    prefix,
  };
}
