/** How a sentence encoder pools, as sentence-transformers writes it beside a model. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonFile } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";
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
  const config = readJsonFile(poolingFile) as Record<string, unknown>;
  const chosen = Object.keys(config).filter((key) => key.startsWith("pooling_mode_") && config[key] === true);
  const pooling = chosen.length === 1 ? modes[chosen[0]!] : undefined;
  if (!pooling)
    throw new EspalierError(
      "unsupported-pooling",
      `${poolingFile}: asks for ${chosen.join(" and ") || "no pooling"}; Espalier pools by one of ${Object.keys(modes).join(", ")}.`,
    );
  const modulesFile = join(directory, "modules.json");
  const modules = existsSync(modulesFile) ? readJsonFile(modulesFile) : [];
  return { pooling, normalize: Array.isArray(modules) && modules.some((module) => String(module?.type).endsWith("Normalize")) };
}
