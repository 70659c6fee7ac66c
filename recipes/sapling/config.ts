import { llamaConfigSchema } from "../../src/models/families/llama.ts";

/** sapling's architecture, as written to its config.json. */
export const saplingConfig = llamaConfigSchema.parse({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 6144,
  hidden_size: 256,
  intermediate_size: 640,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 64,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 1,
});

/** How it is trained. Two phases: short contexts first, because they are cheaper, then the full context. */
export const saplingTraining = {
  seed: 1,
  tokensPerStep: 4096,
  phases: [
    { share: 0.8, sequenceLength: 256 },
    { share: 0.2, sequenceLength: 512 },
  ],
  learningRate: 2.5e-3,
  floor: 0.05,
  warmup: 150,
  betas: [0.9, 0.95] as const,
  weightDecay: 0.1,
  maxGradientNorm: 1,
};
