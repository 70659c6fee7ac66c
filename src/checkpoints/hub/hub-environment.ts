/** Where the Hub is, where its files are kept and who asks: the environment variables that huggingface_hub reads, with its defaults. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { EspalierError } from "../../graph/errors.ts";

export interface HubEnvironment {
  /** URL without a slash at its end. */
  endpoint: string;
  /** Absolute directory that holds `models--org--name/`. */
  cache: string;
  token?: { value: string; source: string };
  offline: boolean;
}

/**
 * `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and the older names of some.
 *
 * @throws EspalierError `hub-endpoint`
 */
export function hubEnvironment(overrides: { endpoint?: string; cache?: string; token?: string } = {}): HubEnvironment {
  const home = environmentPath("HF_HOME") ?? join(environmentPath("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");
  const cache = overrides.cache ?? environmentPath("HF_HUB_CACHE") ?? environmentPath("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub");
  const token = overrides.token === undefined ? findToken(home) : { value: overrides.token, source: "the option token" };
  return {
    endpoint: checkedEndpoint(overrides.endpoint ?? given("HF_ENDPOINT") ?? "https://huggingface.co"),
    cache: resolve(cache),
    ...(token && { token }),
    offline: isTrue("HF_HUB_OFFLINE") || isTrue("TRANSFORMERS_OFFLINE"),
  };
}

function findToken(home: string): HubEnvironment["token"] {
  if (isTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return undefined;
  for (const source of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
    const value = given(source);
    if (value) return { value, source };
  }
  const source = environmentPath("HF_TOKEN_PATH") ?? join(home, "token");
  try {
    const value = readFileSync(source, "utf8").trim();
    return value === "" ? undefined : { value, source };
  } catch {
    return undefined; // most people have none
  }
}

function checkedEndpoint(endpoint: string): string {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (url?.protocol !== "http:" && url?.protocol !== "https:")
    throw new EspalierError("hub-endpoint", `HF_ENDPOINT is ${JSON.stringify(endpoint)}; it must be a URL such as https://huggingface.co.`);
  return endpoint.replace(/\/+$/, "");
}

const given = (name: string): string | undefined => process.env[name]?.trim() || undefined;

const isTrue = (name: string): boolean => /^(1|on|yes|true)$/i.test(given(name) ?? "");

/** A directory that an environment variable names, with `~` and `$NAME` for what they stand for, as huggingface_hub reads its own. */
export function environmentPath(name: string): string | undefined {
  return given(name)
    ?.replace(/^~(?=$|[\\/])/, homedir())
    .replace(/\$(?:(\w+)|\{(\w+)\})/g, (all, a, b) => process.env[a ?? b] ?? all);
}
