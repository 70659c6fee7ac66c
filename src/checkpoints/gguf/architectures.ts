/** The architectures of GGUF files that Espalier reads: pre-norm decoders with the same parts under the same names. */
export interface Architecture {
  /** `general.architecture`, and the beginning of its keys. */
  readonly name: string;
  readonly modelType: string;
  readonly className: string;
  /** Whether the rows of query and key projections are in llama.cpp's order (see `hf-names.ts`). */
  readonly reordered: boolean;
}

/** `llama` also stands for Mistral and other models of the same shape. */
export const architectures: readonly Architecture[] = [
  { name: "llama", modelType: "llama", className: "LlamaForCausalLM", reordered: true },
  { name: "qwen2", modelType: "qwen2", className: "Qwen2ForCausalLM", reordered: false },
  { name: "qwen3", modelType: "qwen3", className: "Qwen3ForCausalLM", reordered: false },
];
