/** Tiny models of the kinds that tasks need, from the fixtures, with the files that a user's checkpoint has beside them. */
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";

const fixture = (name: string) => new URL(`../fixtures/${name}`, import.meta.url).pathname;

function copy(name: string, directory: string): string {
  cpSync(fixture(name), directory, { recursive: true });
  for (const file of ["expected.json", "expected.safetensors"]) rmSync(join(directory, file), { force: true });
  return directory;
}

const write = (directory: string, name: string, value: unknown) => writeFileSync(join(directory, name), JSON.stringify(value));

/** A WordPiece of few words, letters and their continuations, as BERT's. */
export function writeBert(directory: string, words: readonly string[], fixture = "encoder-bert-bare"): string {
  copy(fixture, directory);
  const specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
  const known = [...specials, ...words];
  const tokens = Array.from({ length: 64 }, (_, id) => known[id] ?? `[unused${id}]`);
  const special = (id: number) => ({
    id,
    content: specials[id]!,
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  });
  write(directory, "tokenizer.json", {
    version: "1.0",
    added_tokens: specials.map((_, id) => special(id)),
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      type: "TemplateProcessing",
      single: [
        { SpecialToken: { id: "[CLS]", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "[SEP]", type_id: 0 } },
      ],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "[CLS]": { id: "[CLS]", ids: [2], tokens: ["[CLS]"] }, "[SEP]": { id: "[SEP]", ids: [3], tokens: ["[SEP]"] } },
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: false },
    model: {
      type: "WordPiece",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
    },
  });
  write(directory, "tokenizer_config.json", { pad_token: "[PAD]", unk_token: "[UNK]" });
  return directory;
}

/** A T5 with a token for each character from "0" to "l". */
export function writeT5(directory: string): string {
  copy("seq2seq-t5", directory);
  const specials = ["<pad>", "</s>", "<unk>"];
  const characters = Array.from({ length: 61 }, (_, i) => String.fromCharCode(48 + i));
  write(directory, "tokenizer.json", {
    version: "1.0",
    added_tokens: specials.map((content, id) => ({
      ...{ id, content, special: true, single_word: false },
      ...{ lstrip: false, rstrip: false, normalized: false },
    })),
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: "" }, behavior: "Isolated", invert: false },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 0 } }],
      special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
    },
    decoder: { type: "Fuse" },
    model: {
      ...{ type: "BPE", merges: [], unk_token: "<unk>", fuse_unk: false, byte_fallback: false, dropout: null },
      ...{ continuing_subword_prefix: "", end_of_word_suffix: "" },
      vocab: Object.fromEntries([...specials, ...characters].map((token, id) => [token, id])),
    },
  });
  write(directory, "tokenizer_config.json", { eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" });
  return directory;
}

/** A ViT of 16×16 pixels without a head. */
export function writeVit(directory: string, edge: number): string {
  copy("vit-tiny-bare", directory);
  write(directory, "preprocessor_config.json", { image_processor_type: "ViTImageProcessor", size: { height: edge, width: edge } });
  return directory;
}

/** Directories of dark and bright pictures, `count` of each. */
export async function writePictures(directory: string, count: number): Promise<string> {
  for (const [label, level] of [
    ["dark", 20],
    ["bright", 220],
  ] as const) {
    mkdirSync(join(directory, label), { recursive: true });
    for (let i = 0; i < count; i++) {
      const background = { r: level + i, g: level - (i % 5), b: level + (i % 7) };
      await sharp({ create: { width: 20, height: 18, channels: 3, background } })
        .png()
        .toFile(join(directory, label, `${i}.png`));
    }
  }
  return directory;
}

/** A wav2vec 2.0 that spells with its vocabulary of `letters`. */
export function writeWav2Vec2(directory: string, letters: readonly string[]): string {
  copy("wav2vec2-tiny", directory);
  write(directory, "preprocessor_config.json", {
    ...{ feature_extractor_type: "Wav2Vec2FeatureExtractor", sampling_rate: 16000, do_normalize: true },
    return_attention_mask: false,
  });
  write(directory, "vocab.json", Object.fromEntries(letters.map((letter, id) => [letter, id])));
  write(directory, "tokenizer_config.json", { word_delimiter_token: "|" });
  return directory;
}

/** A tone as 16-bit WAV. */
export function writeTone(file: string, frequency: number, samples: number): string {
  const data = Buffer.alloc(44 + 2 * samples);
  data.write("RIFF", 0);
  data.writeUInt32LE(36 + 2 * samples, 4);
  data.write("WAVEfmt ", 8);
  data.writeUInt32LE(16, 16);
  data.writeUInt16LE(1, 20);
  data.writeUInt16LE(1, 22);
  data.writeUInt32LE(16000, 24);
  data.writeUInt32LE(32000, 28);
  data.writeUInt16LE(2, 32);
  data.writeUInt16LE(16, 34);
  data.write("data", 36);
  data.writeUInt32LE(2 * samples, 40);
  for (let i = 0; i < samples; i++) data.writeInt16LE(Math.round(9000 * Math.sin((2 * Math.PI * frequency * i) / 16000)), 44 + 2 * i);
  writeFileSync(file, data);
  return file;
}
