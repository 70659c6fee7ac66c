/** Reads a tokenizer from a checkpoint. Apart from `tokenizer.ts`, so that a browser build need not know a file system. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { findGguf, GgufFile, ggufTokenizer } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/errors.ts";
import { parseJson } from "../../graph/parse-json.ts";
import { refuseIrregular } from "../../runtime/regular-file.ts";
import { Tokenizer } from "./tokenizer.ts";

/**
 * `tokenizer.json` is required; `tokenizer_config.json` may be absent (then no start, end and padding token is known). A GGUF file, alone in
 * its directory or given itself, holds its own tokenizer.
 * @throws EspalierError `tokenizer-missing`, `tokenizer-broken`, `tokenizer-unsupported` (a kind in a GGUF file that Espalier lacks)
 */
export async function tokenizerFromDirectory(directory: string): Promise<Tokenizer> {
  const path = join(directory, "tokenizer.json");
  const json = await readJson(path);
  if (json === undefined) {
    const gguf = existsSync(directory) ? findGguf(directory) : undefined;
    if (gguf !== undefined) return ggufFileTokenizer(gguf);
    throw new EspalierError(
      "tokenizer-missing",
      `${path} does not exist. A model directory needs the tokenizer.json that its checkpoint was published with; a tokenizer.model or vocab.txt alone must be converted first.`,
    );
  }
  const config = await readJson(join(directory, "tokenizer_config.json"));
  return Tokenizer.fromJson(json.value, config?.value ?? {}, path, fingerprint(json.text, config?.text ?? ""));
}

function ggufFileTokenizer(file: string): Tokenizer {
  const { tokenizer, config } = ggufTokenizer(GgufFile.open(file));
  return Tokenizer.fromJson(tokenizer, config, file, fingerprint(JSON.stringify(tokenizer), JSON.stringify(config)));
}

const fingerprint = (...texts: string[]): string => {
  const hash = createHash("sha256");
  for (const text of texts) hash.update(`${text.length}\n`).update(text);
  return hash.digest("hex");
};

async function readJson(path: string): Promise<{ value: unknown; text: string } | undefined> {
  let text: string;
  try {
    refuseIrregular(path);
    text = await readFile(path, "utf8");
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new EspalierError(
      "tokenizer-unreadable",
      `${path} cannot be read (${code ?? String(cause)}). Check that it is a file and its permissions.`,
      { cause },
    );
  }
  try {
    return { value: parseJson(text), text };
  } catch (cause) {
    throw new EspalierError(
      "tokenizer-broken",
      `${path} is not valid JSON (${(cause as Error).message}; ${text.length} characters read). It may have been cut short: copy the file from the original checkpoint again.`,
      { cause },
    );
  }
}
