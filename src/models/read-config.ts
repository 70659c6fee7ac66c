/** `config.json` of a Hugging Face checkpoint → the configuration of a family that Espalier has, or a refusal that says what differs. */
import type { z } from "zod";
import { EspalierError, nearestNames } from "../graph/index.ts";
import { type LlamaConfig, llamaConfigSchema } from "./llama.ts";

/** What the nearest relatives of Llama have that {@link LlamaConfig} cannot say: running them as Llama would give wrong numbers without a word. */
const differences: Readonly<Record<string, string>> = {
  mistral: "its attention sees a sliding window only",
  mixtral: "its feed-forward is a mixture of experts",
  qwen2: "its q, k and v projections have biases and its o projection has none",
  qwen3: "it normalises queries and keys",
  gemma: "it scales the embedding, adds one to the norms' weights and uses gelu",
  gemma2: "it scales the embedding, caps the scores and norms each block twice",
  gemma3_text: "it scales the embedding, norms queries and keys, and most of its layers see a sliding window only",
  phi: "it has LayerNorm, biases, partial rotary embedding and parallel blocks",
  phi3: "it joins q, k, v and gate, up into one projection each",
  smollm3: "every fourth layer has no rotary embedding",
  olmo2: "it norms after the blocks, and queries and keys",
  granite: "it scales the embedding, the residuals, the scores and the logits",
  cohere: "it has parallel blocks, LayerNorm and scaled logits",
  gpt2: "it has LayerNorm, learned positions, gelu and transposed weights",
  gpt_neox: "it has LayerNorm, parallel blocks and partial rotary embedding",
  opt: "it has LayerNorm, learned positions and relu",
  bert: "it is an encoder, with learned positions and LayerNorm",
};

/**
 * @param json the parsed config.json
 * @param file named in errors
 * @throws EspalierError `unsupported-model`, `bad-config`, `unsupported-rope`
 */
export function readLlamaConfig(json: unknown, file: string): LlamaConfig {
  const raw = json as Record<string, unknown>;
  checkFamily(raw.model_type, file);
  const parsed = llamaConfigSchema.safeParse({ ...raw, rope_theta: ropeTheta(raw, file) });
  if (!parsed.success) throw badConfig(file, parsed.error.issues.map(describeIssue(raw)));
  const problems = contradictions(parsed.data);
  if (problems.length > 0) throw badConfig(file, problems);
  return parsed.data;
}

function checkFamily(family: unknown, file: string): void {
  if (family === "llama") return;
  const nearest = `the nearest family that it runs is "llama" (Llama, SmolLM, SmolLM2, TinyLlama)`;
  if (typeof family !== "string") {
    throw new EspalierError(
      "unsupported-model",
      `${file}: "model_type" is ${family === undefined ? "missing" : JSON.stringify(family)}, so the architecture is not known; ${nearest}. If the weights are of that family, add "model_type": "llama".`,
    );
  }
  const known = differences[family];
  const [similar] = nearestNames(family, Object.keys(differences), 1);
  const hint =
    known ?? (similar && family.startsWith(similar) ? `as in ${similar}, ${differences[similar]}` : "how it differs is not known");
  throw new EspalierError(
    "unsupported-model",
    `${file}: Espalier does not run the model type "${family}" yet; ${nearest}. What differs: ${hint}. Choose a checkpoint whose config.json says "model_type": "llama".`,
  );
}

/** transformers 5 writes `rope_parameters`; older versions a top-level `rope_theta` and, for long contexts, `rope_scaling`. */
function ropeTheta(raw: Record<string, unknown>, file: string): unknown {
  for (const key of ["rope_parameters", "rope_scaling"] as const) {
    const rope = raw[key];
    if (rope === undefined || rope === null) continue;
    if (typeof rope !== "object" || Array.isArray(rope)) throw badConfig(file, [`"${key}" must be an object, not ${JSON.stringify(rope)}`]);
    const { rope_type, type, partial_rotary_factor: share } = rope as Record<string, unknown>;
    const kind = rope_type ?? type ?? "default";
    if (kind !== "default") {
      throw new EspalierError(
        "unsupported-rope",
        `${file}: "${key}" asks for the rotary embedding ${JSON.stringify(kind)}, which stretches positions for long contexts; Espalier has "default" only, and with it the model would compute other numbers. Choose a checkpoint without it.`,
      );
    }
    if (share !== undefined && share !== 1) {
      throw new EspalierError(
        "unsupported-rope",
        `${file}: "${key}.partial_rotary_factor" is ${JSON.stringify(share)}; Espalier rotates whole heads only. Choose a checkpoint without it.`,
      );
    }
  }
  const theta = (raw.rope_parameters as { rope_theta?: unknown } | null | undefined)?.rope_theta;
  return theta ?? raw.rope_theta ?? undefined;
}

const describeIssue =
  (raw: Record<string, unknown>) =>
  (issue: z.core.$ZodIssue): string => {
    const key = issue.path.join(".");
    const value = raw[String(issue.path[0])];
    if (value === undefined) return `"${key}" is missing`;
    if (key === "hidden_act") return `"hidden_act" is ${JSON.stringify(value)}; the family has "silu" only`;
    return `"${key}" is ${JSON.stringify(value)}: ${issue.message}`;
  };

function contradictions(config: LlamaConfig): string[] {
  const { hidden_size: hidden, num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: given } = config;
  const problems: string[] = [];
  if (kvHeads !== undefined && heads % kvHeads !== 0)
    problems.push(`"num_attention_heads" (${heads}) must be a multiple of "num_key_value_heads" (${kvHeads})`);
  if (given === undefined || given === null) {
    if (hidden % heads !== 0)
      problems.push(`"hidden_size" (${hidden}) must be a multiple of "num_attention_heads" (${heads}) where there is no "head_dim"`);
  }
  const width = given ?? hidden / heads;
  if (Number.isInteger(width) && width % 2 !== 0) problems.push(`the width of a head (${width}) must be even for the rotary embedding`);
  return problems;
}

const badConfig = (file: string, problems: readonly string[]) =>
  new EspalierError(
    "bad-config",
    `${file} does not describe a model:\n${problems.map((p) => `  ${p}`).join("\n")}\nFetch or write the file again.`,
  );
