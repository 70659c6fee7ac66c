import { existsSync, statSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { createJiti } from "jiti";
import { EspalierError, fewProblems, nearestNames, show } from "../../graph/index.ts";
import { type RunConfig, runOptions, runSchema } from "./run-options.ts";

/** Looked for where the command runs, in this order. */
export const configNames = ["ts", "mts", "js", "mjs", "json"].map((extension) => `espalier.config.${extension}`);

export interface LoadedConfig {
  file: string;
  /** What the file says, checked; paths are resolved. */
  config: RunConfig;
}

/** The configuration in `file`, or the one in `directory` if there is one. */
export async function loadConfig(file?: string, directory = process.cwd()): Promise<LoadedConfig | undefined> {
  const found = file ?? configNames.map((name) => resolve(directory, name)).find((path) => existsSync(path));
  if (found === undefined) return undefined;
  if (!statSync(found, { throwIfNoEntry: false })?.isFile())
    throw new EspalierError("no-config", `${found}: there is no such file. Name a configuration, or write one with espalier init.`);
  return { file: found, config: resolvePaths(checked(await exported(found), found), dirname(resolve(found))) };
}

/** The module `espalier/config`, in the source or built. */
const ownFace = fileURLToPath(new URL(import.meta.url.endsWith(".ts") ? "./define-run.ts" : "./define-run.js", import.meta.url));

/** What the file exports by default. TypeScript needs no building, and the face that it imports is this one, wherever the command is installed. */
async function exported(file: string): Promise<unknown> {
  const jiti = createJiti(import.meta.url, {
    alias: { "espalier/config": ownFace },
    moduleCache: false,
    fsCache: false,
    interopDefault: false,
  });
  try {
    const module = await jiti.import<{ default?: unknown }>(resolve(file));
    return file.endsWith(".json") ? module : module.default;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EspalierError("bad-config", `${file} cannot be read: ${reason}`, { cause });
  }
}

/** Refuses what is no configuration, naming every key that is wrong. */
export function checked(value: unknown, file: string): RunConfig {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new EspalierError(
      "bad-config",
      `${file} must export the run's options by default: export default defineRun({ data: "mail.jsonl" }). It exports ${show(value)}.`,
    );
  const parsed = runSchema.safeParse(value);
  if (parsed.success) return value as RunConfig;
  const problems = parsed.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((key) => `there is no option "${key}"; nearest: ${nearestNames(key, Object.keys(runOptions), 1).join()}`);
    const [key] = issue.path as [string];
    return `${issue.path.join(".")} is ${show((value as Record<string, unknown>)[key])}: ${issue.message}`;
  });
  throw new EspalierError("bad-config", `${file}: ${fewProblems(problems).join("\n  ")}`);
}

/** Paths of a configuration are relative to it. A model's name on the Hub is none: only what lies there counts. */
function resolvePaths(config: RunConfig, directory: string): RunConfig {
  const absolute = (key: string, value: unknown): unknown => {
    if (!(runOptions as Record<string, { path?: true }>)[key]?.path) return value;
    if (Array.isArray(value)) return value.map((one) => absolute(key, one));
    if (typeof value === "object" && value !== null && "path" in value) return { ...value, path: absolute(key, value.path) };
    if (typeof value !== "string" || isAbsolute(value)) return value;
    const path = resolve(directory, value);
    return key === "model" && !existsSync(path) ? value : path;
  };
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [key, absolute(key, value)])) as RunConfig;
}
