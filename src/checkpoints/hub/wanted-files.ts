/** Which of a repository's files a model needs: its weights as safetensors or GGUF, and the small files that say what they are. Never a pickle. */
import { EspalierError } from "../../graph/errors.ts";
import { refusePickle } from "../hf-directory.ts";
import { isInnerPath } from "../inner-path.ts";
import { readJsonObject } from "../json-file.ts";
import { quoteName } from "../safetensors-header.ts";

const companions = [
  /^(?:(?:adapter_|generation_|tokenizer_|preprocessor_|processor_)?config|special_tokens_map|added_tokens|espalier)\.json$/,
  /^(?:tokenizer|vocab|chat_template|modules|config_sentence_transformers|sentence_bert_config)\.json$/,
  /^(?:vocab|merges)\.txt$/,
  /^(?:tokenizer|spiece|sentencepiece\.bpe)\.model$/,
  /^(?:chat_template|additional_chat_templates\/[^/]+)\.jinja$/,
  /^\d+_Pooling\/config\.json$/,
  /^(?:LICEN[CS]E|NOTICE)(?:[.-][^/]*)?$/i,
];

/** The small files beside the weights. */
export const companionFiles = (names: Iterable<string>): string[] =>
  [...names].filter((name) => isInnerPath(name) && companions.some((pattern) => pattern.test(name)));

/** Where a repository keeps its weights: in these files, or in those that this index names, or in one GGUF file that is the whole model. */
export type WeightFiles = { weights: string[]; index?: string } | { gguf: string };

/**
 * @param where the repository, in messages
 * @param names of its files
 * @throws EspalierError `hub-no-model`, `hub-which-file`, `checkpoint-pickle`
 */
export function chooseWeights(where: string, names: ReadonlySet<string>): WeightFiles {
  const adapter = ["adapter_model.safetensors"].filter((name) => names.has(name) && names.has("adapter_config.json"));
  if (names.has("config.json")) {
    if (names.has("model.safetensors")) return { weights: ["model.safetensors", ...adapter] };
    if (names.has(indexName)) return { weights: adapter, index: indexName };
  }
  if (adapter.length > 0) return { weights: adapter };
  const ggufs = [...names].filter((name) => /\.gguf$/i.test(name) && isInnerPath(name));
  if (ggufs.length === 1) return { gguf: ggufs[0]! };
  if (ggufs.length > 1)
    throw new EspalierError(
      "hub-which-file",
      `${where} holds ${ggufs.length} GGUF files: say which, as in ${where.split("@")[0]}/${ggufs[0]}. There are ${listed(ggufs)}.`,
    );
  const pickle = refusePickle(where, [...names]);
  if (pickle)
    throw new EspalierError(
      pickle.code,
      `${pickle.message}\nOr see whether one of the pull requests of the repository holds safetensors: they are revisions, as in ${where.split("@")[0]}@refs/pr/1.`,
    );
  const has = ["model.safetensors", indexName].find((name) => names.has(name));
  throw new EspalierError(
    "hub-no-model",
    has
      ? `${where} has ${has} but no config.json, which says what the weights are. Choose a repository in the layout of transformers.`
      : `${where} holds no model that Espalier reads: neither model.safetensors nor an index of shards, no adapter and no GGUF file. It has ${listed([...names])}.`,
  );
}

const indexName = "model.safetensors.index.json";

/**
 * The shards that an index names.
 *
 * @throws EspalierError `checkpoint-index` where one is not in the repository or not a plain name
 */
export function shardsOf(indexFile: string, where: string, names: ReadonlySet<string>): string[] {
  const { weight_map: map } = readJsonObject(indexFile);
  const shards = [...new Set(Object.values(typeof map === "object" && map !== null ? map : {}))];
  for (const shard of shards) {
    if (typeof shard === "string" && isInnerPath(shard) && shard.endsWith(".safetensors") && names.has(shard)) continue;
    throw new EspalierError(
      "checkpoint-index",
      `${indexName} of ${where} names the shard ${quoteName(String(shard))}, which the repository does not hold as a safetensors file. Nothing more was fetched; do not use this repository unless you know why.`,
    );
  }
  return shards as string[];
}

const listed = (names: readonly string[]): string => {
  if (names.length === 0) return "no files at all";
  return `${names.slice(0, 12).map(quoteName).join(", ")}${names.length > 12 ? `, and ${names.length - 12} more` : ""}`;
};
