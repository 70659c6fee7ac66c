/** What a directory's `generation_config.json` adds to `config.json`. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { type Checkpoint, readJsonObject } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";

const id = z.int().nonnegative();
const schema = z.looseObject({ eos_token_id: z.union([id, z.array(id)]).nullish() });

/**
 * The tokens that end an answer by `generation_config.json`: chat models often name the end of a turn only there. Empty where there is no such file.
 *
 * @throws EspalierError `bad-config`
 */
export function readEndIds({ directory, files }: Checkpoint): readonly number[] {
  const file = join(directory, "generation_config.json");
  if (!files.includes("generation_config.json") || !existsSync(file)) return [];
  const parsed = schema.safeParse(readJsonObject(file));
  if (!parsed.success)
    throw new EspalierError(
      "bad-config",
      `${file}: "eos_token_id" must be a token id or a list of them. Correct it, or remove the file to go by config.json.`,
    );
  return [parsed.data.eos_token_id ?? []].flat();
}
