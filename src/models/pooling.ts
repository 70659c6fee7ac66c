/** How a sentence encoder pools, as sentence-transformers writes it beside a model: a list of modules, and a folder for each that has settings. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonFile, readJsonObject } from "../checkpoints/index.ts";
import { EspalierError, fewProblems, show } from "../graph/index.ts";
import type { Pooling } from "./text-encoder.ts";

const modes: Readonly<Record<string, Pooling>> = {
  pooling_mode_mean_tokens: "mean",
  pooling_mode_cls_token: "cls",
  pooling_mode_max_tokens: "max",
};

/** @throws EspalierError `unsupported-pooling`, `bad-config` */
export function readPooling(directory: string): { pooling: Pooling; normalize: boolean } {
  const poolingFile = join(directory, "1_Pooling", "config.json");
  if (!existsSync(poolingFile)) return { pooling: "mean", normalize: true };
  const config = readJsonObject(poolingFile);
  const chosen = Object.keys(config).filter((key) => key.startsWith("pooling_mode_") && config[key] === true);
  const pooling = chosen.length === 1 ? modes[chosen[0]!] : undefined;
  if (!pooling)
    throw new EspalierError(
      "unsupported-pooling",
      `${poolingFile}: asks for ${fewProblems(chosen).join(" and ") || "no pooling"}; Espalier pools by one of ${Object.keys(modes).join(", ")}.`,
    );
  const modulesFile = join(directory, "modules.json");
  const listed = existsSync(modulesFile) ? readJsonFile(modulesFile) : [];
  const modules = Array.isArray(listed) ? listed.map((module: unknown) => typeOf(module).split(".").at(-1)!) : [];
  const unknown = modules.find((module) => !["Transformer", "Pooling", "Normalize"].includes(module));
  if (unknown !== undefined)
    throw new EspalierError(
      "unsupported-pooling",
      `${modulesFile}: has the module ${show(unknown)}; Espalier computes Transformer, Pooling and Normalize, and without another one the vectors would be other ones.`,
    );
  return { pooling, normalize: modules.includes("Normalize") };
}

const typeOf = (module: unknown): string => {
  const type = typeof module === "object" && module !== null ? (module as { type?: unknown }).type : undefined;
  return typeof type === "string" ? type : show(type);
};

/** The files that say how a sentence encoder pools, by their paths in its directory. */
export function poolingFiles({
  pooling,
  normalize,
  width,
}: {
  pooling: Pooling;
  normalize: boolean;
  width: number;
}): Record<string, string> {
  const parts = [
    ["Transformer", ""],
    ["Pooling", "1_Pooling"],
    ["Normalize", "2_Normalize"],
  ].slice(0, normalize ? 3 : 2);
  const modules = parts.map(([type, path], idx) => ({ idx, name: String(idx), path, type: `sentence_transformers.models.${type}` }));
  const chosen = Object.fromEntries(Object.entries(modes).map(([mode, name]) => [mode, name === pooling]));
  return {
    "modules.json": JSON.stringify(modules, null, 2),
    "1_Pooling/config.json": JSON.stringify({ word_embedding_dimension: width, ...chosen }, null, 2),
  };
}
