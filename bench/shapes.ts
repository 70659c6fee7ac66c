/** The shapes that benches measure: each is a `config.json`, which our loader and transformers read alike, and what a step on it trains. */

const smol = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  hidden_size: 576,
  intermediate_size: 1536,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  num_hidden_layers: 30,
  vocab_size: 49152,
  max_position_embeddings: 2048,
  tie_word_embeddings: true,
} as const;
const attentionDropout = { attention_probs_dropout_prob: 0, hidden_dropout_prob: 0 };

export const shapes = {
  "SmolLM2-135M": smol,
  "SmolLM2-135M, vocabulary 8192": { ...smol, vocab_size: 8192, num_hidden_layers: 6 },
  /** 100 M parameters in few tensors. */
  wide: {
    ...smol,
    hidden_size: 640,
    intermediate_size: 1792,
    num_attention_heads: 10,
    num_key_value_heads: 5,
    num_hidden_layers: 20,
    vocab_size: 16384,
  },
  "Llama-30M": {
    ...smol,
    hidden_size: 512,
    intermediate_size: 1408,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    num_hidden_layers: 8,
    vocab_size: 12288,
  },
  "BERT-base": {
    model_type: "bert",
    architectures: ["BertForSequenceClassification"],
    hidden_size: 768,
    intermediate_size: 3072,
    num_attention_heads: 12,
    num_hidden_layers: 12,
    vocab_size: 30522,
    max_position_embeddings: 512,
    id2label: { 0: "no", 1: "yes" },
    ...attentionDropout,
  },
  "ViT-S/16": {
    model_type: "vit",
    architectures: ["ViTForImageClassification"],
    hidden_size: 384,
    intermediate_size: 1536,
    num_attention_heads: 6,
    num_hidden_layers: 12,
    image_size: 224,
    patch_size: 16,
    id2label: Object.fromEntries(Array.from({ length: 10 }, (_, i) => [i, `class ${i}`])),
    ...attentionDropout,
  },
} as const;

export type ShapeName = keyof typeof shapes;

/** A step of training, in words that the peer's script reads, too. */
export interface StepSpec {
  shape: ShapeName;
  /** In place of the shape's own number. */
  layers?: number | undefined;
  batch: number;
  /** Tokens of a sequence; of images none. */
  time?: number | undefined;
  /** LoRA on the linear layers of these names. Absent: every parameter is trained. */
  lora?: { rank: number; targets: readonly string[] } | undefined;
}

const decoderLora = { rank: 8, targets: ["q_proj", "v_proj"] };
const encoderLora = { rank: 8, targets: ["query", "value"] };

export const steps = {
  "lora-step": { shape: "SmolLM2-135M, vocabulary 8192", batch: 4, time: 256, lora: decoderLora },
  "full-step": { shape: "SmolLM2-135M, vocabulary 8192", batch: 4, time: 256 },
  "smollm2-lora": { shape: "SmolLM2-135M", batch: 4, time: 256, lora: decoderLora },
  "full-30m": { shape: "Llama-30M", batch: 8, time: 256 },
  "bert-lora": { shape: "BERT-base", batch: 16, time: 128, lora: encoderLora },
  "vit-lora": { shape: "ViT-S/16", batch: 32, lora: encoderLora },
} as const satisfies Record<string, StepSpec>;

/** The same in a size that only shows that the bench runs. */
export const smoke = (spec: StepSpec): StepSpec => ({ ...spec, layers: 1, batch: 2, time: spec.time && 32 });

export const layersOf = ({ shape, layers }: StepSpec): number => layers ?? shapes[shape].num_hidden_layers;
