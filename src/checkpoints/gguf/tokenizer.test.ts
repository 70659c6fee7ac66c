import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { tokenizerFromDirectory } from "../../inputs/text/tokenizer-directory.ts";
import { readJsonObject } from "../json-file.ts";
import { refusal } from "../refusal.ts";
import { GgufFile } from "./gguf-file.ts";
import { ggufTokenizer } from "./tokenizer.ts";

const fixtures = new URL("../../../tests/fixtures/gguf-tiny/", import.meta.url).pathname;
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-gguf-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const { encodings } = readJsonObject(join(fixtures, "tokenizers.json")) as {
  encodings: Record<string, { text: string; ids: number[]; decoded?: string }[]>;
};

describe.each(Object.keys(encodings))("a tokenizer of the kind %s", (kind) => {
  test.each(encodings[kind]!)("encodes $text as the original", async ({ text, ids, decoded }) => {
    const tokenizer = await tokenizerFromDirectory(join(fixtures, `tokenizer-${kind}.gguf`));
    // The reference of the byte-level ones adds no start token by itself.
    expect(tokenizer.encode(text, { addSpecialTokens: kind === "llama" })).toEqual(ids);
    expect(tokenizer.decode(ids, { skipSpecialTokens: kind === "llama" })).toBe(decoded ?? text);
  });
});

test("special tokens, the start token and the chat template", async () => {
  const { tokenizer, config } = ggufTokenizer(GgufFile.open(join(fixtures, "tokenizer-llama.gguf")));
  expect(config).toMatchObject({ bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: null, add_bos_token: true });
  expect(tokenizer.added_tokens).toMatchObject([
    { id: 0, content: "<unk>", special: true },
    { id: 1, content: "<s>", special: true },
    { id: 2, content: "</s>", special: true },
  ]);
  const smollm = ggufTokenizer(GgufFile.open(join(fixtures, "tokenizer-smollm.gguf")));
  expect(smollm.config).toMatchObject({ bos_token: "<|im_start|>", add_bos_token: false, chat_template: "{{ messages[0].content }}" });
  const loaded = await tokenizerFromDirectory(join(fixtures, "tokenizer-smollm.gguf"));
  expect([loaded.bosId, loaded.eosId, loaded.padId, loaded.vocabSize]).toEqual([1, 2, 0, 320]);
});

describe("refusals", () => {
  function changed(from: string, to: string): GgufFile {
    const content = readFileSync(join(fixtures, "tokenizer-smollm.gguf"));
    const at = content.indexOf(from);
    expect(at).toBeGreaterThan(0);
    content.write(to, at);
    const file = join(directory, "changed.gguf");
    writeFileSync(file, content);
    return GgufFile.open(file);
  }

  test("an unknown way to cut text, which would give other tokens without a word", () => {
    const { code, message } = refusal(() => ggufTokenizer(changed("smollm", "smallm")), `${directory}/`);
    expect(code).toBe("tokenizer-unsupported");
    expect(message).toContain('…changed.gguf: its tokenizer cuts text in the way "smallm", which Espalier does not know');
  });

  test("an unknown kind of model", () => {
    expect(refusal(() => ggufTokenizer(changed("gpt2", "bert")))).toMatchObject({
      code: "tokenizer-unsupported",
      message: expect.stringContaining('of the kind "bert"'),
    });
  });

  test("a merge of tokens that the vocabulary lacks", () => {
    expect(refusal(() => ggufTokenizer(changed("e r", "e\u0001r")))).toMatchObject({
      code: "tokenizer-broken",
      message: expect.stringMatching(/merge \d+ \("e\\u0001r"\) does not join two of its tokens/),
    });
  });

  test("a file without a tokenizer", async () => {
    await expect(tokenizerFromDirectory(join(fixtures, "blocks.gguf"))).rejects.toMatchObject({ code: "tokenizer-missing" });
  });
});
