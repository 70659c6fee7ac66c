import { saplingConfig as c, saplingTraining as t } from "./config.ts";

/** What export.ts measured, as recorded in result.json. */
export interface SaplingResult {
  parameters: number;
  steps: number;
  trainingTokens: number;
  trainingMinutes: number;
  seed: number;
  heldOutBytes: number;
  bitsPerByte: { context256: number; context512: number };
  baselines: { gzip9: number; kneserNey5GramBytes: number };
}

const million = (n: number): string => `${(n / 1e6).toFixed(1)} M`;

/** The model card, written from the figures so that it cannot disagree with them. */
export function modelCard(r: SaplingResult): string {
  return `# sapling

A small English language model for trying Espalier, pre-trained by Espalier itself: ${million(r.parameters)} parameters, bfloat16.

| | |
| --- | --- |
| architecture | Llama family: ${c.num_hidden_layers} layers of width ${c.hidden_size}, ${c.num_attention_heads} heads (${c.num_key_value_heads} key/value heads), feed-forward ${c.intermediate_size}, tied embeddings |
| tokenizer | byte-level BPE, ${c.vocab_size} tokens, digits one by one |
| context | ${c.max_position_embeddings} tokens |
| training | ${r.steps} steps of ${t.tokensPerStep} tokens (${million(r.trainingTokens)} tokens), ${r.trainingMinutes} minutes on 2 processor cores, seed ${r.seed} |
| optimizer | AdamW, peak learning rate ${t.learningRate}, β ${t.betas.join(" and ")}, weight decay ${t.weightDecay}, cosine to ${100 * t.floor} %, contexts of ${t.phases.map((p) => `${p.sequenceLength} tokens for ${100 * p.share} %`).join(", then ")} |

## Quality

Bits per byte of ${million(r.heldOutBytes)}B of held-out text of the same sources (lower is better), measured with the rounded weights that are stored here:

| model | bits per byte |
| --- | ---: |
| gzip -9 | ${r.baselines.gzip9.toFixed(3)} |
| 5-gram model of bytes, interpolated modified Kneser-Ney, on the same training text | ${r.baselines.kneserNey5GramBytes.toFixed(3)} |
| sapling, windows of 256 tokens | ${r.bitsPerByte.context256.toFixed(3)} |
| sapling, windows of 512 tokens | ${r.bitsPerByte.context512.toFixed(3)} |

The held-out text is unseen pages of the kinds of text that were seen, not of new kinds.

## Data and licence

30 MB of English: the Brown corpus (6 MB), manuals and books from Debian's documentation packages, dictionaries of computing, and the dialogue of two free games.
Packages, versions, licences and hashes are in \`recipes/sapling/README.md\` and \`recipes/sapling/manifest.json\`; all may be redistributed, several under the GPL, the GFDL or CC-BY-SA.
There is no e-mail in it. The weights are given under Apache-2.0 as far as that is ours to say.

\`npm run pretrain:sapling\` makes it again; an interrupted run continues.

## Limits

It completes sentences in the tone of a manual or a newspaper of 1961 and knows next to nothing. It is for adapting, testing and teaching.
It was trained on no conversation and has no safety tuning.
`;
}
