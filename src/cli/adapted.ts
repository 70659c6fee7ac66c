import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject, readPeftAdapter } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { Tokenizer } from "../inputs/index.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { loadLora } from "../methods/index.ts";
import { loadCausalLM, loadSequenceClassifier } from "../models/index.ts";
import type { LlamaForCausalLM, LlamaForSequenceClassification } from "../models/llama.ts";
import type { TaskRecord } from "../train/tasks/task.ts";
import { defaultModel } from "./default-model.ts";

const recordFile = "espalier.json";
const recordSchema: z.ZodType<TaskRecord> = z.union([
  z.object({
    task: z.literal("classification"),
    labels: z.array(z.string()).min(2),
    template: z.string(),
    maxLength: z.int().positive(),
    positive: z.string().optional(),
  }),
  z.object({ task: z.literal("language-modeling"), sequenceLength: z.int().positive() }),
]);

/** A base model with an adapter on it, ready for use. */
export type Adapted = { tokenizer: Tokenizer; base: string } & (
  | { kind: "classification"; model: LlamaForSequenceClassification; record: Extract<TaskRecord, { task: "classification" }> }
  | { kind: "language-modeling"; model: LlamaForCausalLM; record: Extract<TaskRecord, { task: "language-modeling" }> | undefined }
);

/** What was trained, as `espalier train` recorded it beside the adapter; undefined for an adapter that came from elsewhere. */
export function readTaskRecord(adapter: string): TaskRecord | undefined {
  const file = join(adapter, recordFile);
  if (!existsSync(file)) return undefined;
  const parsed = recordSchema.safeParse(readJsonObject(file));
  if (!parsed.success)
    throw new EspalierError(
      "adapter-record",
      `${file} is damaged: ${parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`).join("; ")}`,
    );
  return parsed.data;
}

/** Opens an adapter on its base model (or on `model`). */
export async function openAdapted(adapter: string, model?: string): Promise<Adapted> {
  const record = readTaskRecord(adapter);
  const base = model ?? baseOf(adapter);
  const tokenizer = await tokenizerFromDirectory(base);
  if (record?.task === "classification") {
    const classifier = loadSequenceClassifier(base, record.labels);
    loadLora(classifier, adapter);
    return { kind: "classification", tokenizer, base, model: classifier, record };
  }
  const language = loadCausalLM(base);
  loadLora(language, adapter);
  return { kind: "language-modeling", tokenizer, base, model: language, record };
}

function baseOf(adapter: string): string {
  const named = readPeftAdapter(adapter).config.base_model_name_or_path;
  if (named && existsSync(named)) return named;
  if (named?.endsWith("models/sapling")) return defaultModel; // the embedded model, wherever this package is installed now
  throw new EspalierError(
    "no-base",
    `${adapter}: its base model ${named ? `"${named}" is not a directory here` : "is not named in adapter_config.json"}. Give its directory with --model.`,
  );
}
