/** `espalier generate` with an encoder–decoder: it answers the prompt, greedily or by beam search, as the library does. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { espalier } from "./command.ts";

const directory = mkdtempSync(join(tmpdir(), "espalier-seq2seq-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** The T5 fixture with a tokenizer of one token per printable character. */
function model(): string {
  cpSync(new URL("../fixtures/seq2seq-t5", import.meta.url).pathname, directory, { recursive: true });
  const specials = ["<pad>", "</s>", "<unk>"];
  const characters = Array.from({ length: 61 }, (_, i) => String.fromCharCode(48 + i));
  const vocab = Object.fromEntries([...specials, ...characters].map((token, id) => [token, id]));
  writeFileSync(
    join(directory, "tokenizer.json"),
    JSON.stringify({
      version: "1.0",
      added_tokens: specials.map((content, id) => ({
        id,
        content,
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      })),
      normalizer: null,
      pre_tokenizer: { type: "Split", pattern: { Regex: "" }, behavior: "Isolated", invert: false },
      post_processor: null,
      decoder: { type: "Fuse" },
      model: {
        type: "BPE",
        vocab,
        merges: [],
        unk_token: "<unk>",
        fuse_unk: false,
        byte_fallback: false,
        dropout: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
      },
    }),
  );
  writeFileSync(join(directory, "tokenizer_config.json"), JSON.stringify({ eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" }));
  return directory;
}

interface Expected {
  input_ids: number[][];
  attention_mask: number[][];
  greedy: number[][];
  beams: { num_beams: number; max_new_tokens: number; length_penalty: number; rows: { ids: number[] }[] }[];
}

test("the answers are transformers', greedy and by beam search; an option that cannot hold is refused", async () => {
  const path = model();
  const expected = JSON.parse(readFileSync(join(path, "expected.json"), "utf8")) as Expected;
  const ids = expected.input_ids[1]!.filter((_, i) => expected.attention_mask[1]![i] === 1);
  const prompt = ids.map((id) => String.fromCharCode(48 + id - 3)).join("");
  const answer = async (...flags: string[]) => {
    const { stdout } = await espalier("generate", "--model", path, "--prompt", prompt, "--json", ...flags);
    return JSON.parse(stdout.trim().split("\n").at(-1)!) as { ids: number[]; finishReason: string };
  };
  expect((await answer("--temperature", "0", "--max-new-tokens", "12")).ids).toEqual(expected.greedy[1]);
  const search = expected.beams.find((s) => s.length_penalty === 1)!;
  expect((await answer("--beams", String(search.num_beams), "--max-new-tokens", String(search.max_new_tokens))).ids).toEqual(
    search.rows[1]!.ids,
  );
  const refused = await espalier("generate", "--model", path, "--prompt", prompt.repeat(2), "--beams", "0");
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toContain("--beams");
});
