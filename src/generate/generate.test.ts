import { describe, expect, test } from "vitest";
import type { EspalierError } from "../graph/index.ts";
import { Tokenizer } from "../inputs/index.ts";
import { byteToChar } from "../inputs/text/byte-level.ts";
import { LlamaForCausalLM, llamaConfigSchema } from "../models/families/llama.ts";
import { cpu } from "../runtime/node.ts";
import { Decoder } from "./decoder.ts";
import { type GenerateOptions, generate } from "./generate.ts";

/** One token per byte, two of several bytes, a start token and an end token. */
const extra = { the: 256, "d!E": 257, "<s>": 258, "</s>": 259 } as const;
const special = (content: keyof typeof extra) => ({ id: extra[content], content, special: true });
const tokenizer = Tokenizer.fromJson(
  {
    added_tokens: [special("<s>"), special("</s>")],
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: { ...Object.fromEntries(byteToChar.map((char, byte) => [char, byte])), ...extra }, merges: [] },
  },
  { bos_token: "<s>", eos_token: "</s>" },
);
const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

const config = llamaConfigSchema.parse({
  vocab_size: 260,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 40,
  initializer_range: 0.3,
});
const decoder = await Decoder.create(cpu({ threads: 1 }), new LlamaForCausalLM(config, 1).freeze());

/** A decoder that says what it was told to say. */
function scripted(ids: readonly number[], context = 1000): Decoder & { prompts: number[][] } {
  const prompts: number[][] = [];
  let at = 0;
  const logits = () => new Float32Array(260).fill(-1).fill(1, ids[at], ids[at]! + 1);
  const script = {
    context,
    room: (prompt: number) => context - prompt,
    model: { config },
    prompts,
    async start(given: number[][]) {
      prompts.push(...given);
      return { logits, push: async () => void at++ };
    },
  };
  return script as unknown as Decoder & { prompts: number[][] };
}

async function collect(ids: readonly number[], options: GenerateOptions = {}, context?: number) {
  const generation = generate(scripted(ids, context), tokenizer, "p", options);
  const pieces: string[] = [];
  for await (const piece of generation) pieces.push(piece);
  return { pieces, ...(await generation.result()) };
}

describe("streaming", () => {
  test("characters of several bytes come whole", async () => {
    const { pieces, text } = await collect(bytes("a€😀b"), { maxNewTokens: 9 });
    expect(pieces).toEqual(["a", "€", "😀", "b"]);
    expect(text).toBe("a€😀b");
  });

  test("a character that the last token leaves unfinished shows as such", async () => {
    expect((await collect(bytes("a€"), { maxNewTokens: 3 })).pieces).toEqual(["a", "\ufffd"]);
  });

  test("the result comes without iterating, and after iterating in part", async () => {
    expect((await generate(scripted(bytes("abcd")), tokenizer, "p", { maxNewTokens: 4 }).result()).text).toBe("abcd");
    const generation = generate(scripted(bytes("abcd")), tokenizer, "p", { maxNewTokens: 4 });
    const pieces = generation[Symbol.asyncIterator]();
    expect((await pieces.next()).value).toBe("a");
    expect(await generation.result()).toMatchObject({ text: "abcd", finishReason: "length" });
  });

  test("a reader who leaves stops it", async () => {
    const generation = generate(scripted(bytes("abcd")), tokenizer, "p", { maxNewTokens: 4 });
    for await (const _ of generation) break;
    expect(await generation.result()).toMatchObject({ text: "a", ids: bytes("a"), finishReason: "cancelled" });
  });
});

describe("the end", () => {
  test("an end token, which is not text", async () => {
    expect(await collect([...bytes("hi"), extra["</s>"], ...bytes("no")])).toMatchObject({
      text: "hi",
      ids: [...bytes("hi"), extra["</s>"]],
      finishReason: "end",
    });
  });

  test("end tokens that config.json names, one or several", async () => {
    const other = scripted(bytes("ab.c"));
    Object.assign(other.model, { config: { ...config, eos_token_id: [255, 46] } });
    expect(await generate(other, tokenizer, "p").result()).toMatchObject({ text: "ab", finishReason: "end" });
  });

  test("a stop string over several tokens, cut within a token and never shown in part", async () => {
    // "d!E" holds the end of the text, the stop string's beginning and nothing else of it.
    const ids = [...bytes("goo"), extra["d!E"], ...bytes("ND and more")];
    const { pieces, text, finishReason } = await collect(ids, { stop: ["!END", "never"] });
    expect({ pieces, text, finishReason }).toEqual({ pieces: ["g", "o", "o", "d"], text: "good", finishReason: "stop" });
  });

  test("what only looked like a stop string is shown at the end", async () => {
    expect(await collect(bytes("a!EN"), { stop: ["!END"], maxNewTokens: 4 })).toMatchObject({
      pieces: ["a", "!EN"],
      finishReason: "length",
    });
  });

  test("the prompt does not count for stop strings", async () => {
    expect((await collect(bytes("x"), { stop: ["px"], maxNewTokens: 1 })).text).toBe("x");
  });
});

describe("the context", () => {
  test("ends the text when it is full, and says so", async () => {
    expect(await collect(bytes("abcdef"), { maxNewTokens: 6 }, 4)).toMatchObject({ text: "abc", finishReason: "context" });
    expect(await collect(bytes("abcdef"), { maxNewTokens: 3 }, 4)).toMatchObject({ text: "abc", finishReason: "length" });
  });

  test("refuses a prompt that leaves no room, with the count", () => {
    expect(() => generate(scripted([1], 4), tokenizer, "prompt")).toThrow(
      'The prompt has 6 tokens; with at least one new token it must fit the model\'s context of 4. Shorten it by 3 tokens, or let its beginning be dropped with overflow: "truncate".',
    );
  });

  test("drops the prompt's beginning where that is asked for, counts it and keeps the start token", async () => {
    const plain = scripted(bytes("abcdefgh"), 6);
    expect(await generate(plain, tokenizer, "0123456789", { overflow: "truncate", maxNewTokens: 2 }).result()).toMatchObject({
      text: "ab",
      promptTokens: 4,
      droppedTokens: 6,
    });
    expect(plain.prompts).toEqual([bytes("6789")]);
    const withStart = scripted(bytes("abcdefgh"), 6);
    const prompt = [extra["<s>"], ...bytes("0123456789")];
    expect(await generate(withStart, tokenizer, prompt, { overflow: "truncate" }).result()).toMatchObject({
      promptTokens: 3,
      droppedTokens: 8,
      finishReason: "context",
    });
    expect(withStart.prompts).toEqual([[extra["<s>"], ...bytes("89")]]);
  });

  test("an empty prompt begins at the start token", async () => {
    const from = scripted(bytes("a"));
    await generate(from, tokenizer, "", { maxNewTokens: 1 }).result();
    expect(from.prompts).toEqual([[extra["<s>"]]]);
  });
});

describe("with a model", () => {
  const run = (options: GenerateOptions) => generate(decoder, tokenizer, "Once", { maxNewTokens: 30, ...options }).result();

  test("the seed decides what is drawn", async () => {
    const [a, b, c] = [
      await run({ temperature: 1, seed: 4 }),
      await run({ temperature: 1, seed: 4 }),
      await run({ temperature: 1, seed: 5 }),
    ];
    expect(a.ids).toEqual(b.ids);
    expect(a.ids).not.toEqual(c.ids);
  });

  test("greedy needs no seed; speed is reported", async () => {
    const result = await run({});
    expect(result.ids).toEqual((await run({ seed: 9 })).ids);
    expect(result).toMatchObject({ promptTokens: 4, finishReason: "length" });
    expect(result.tokensPerSecond).toBeGreaterThan(1);
    expect(result.firstTokenSeconds).toBeGreaterThan(0);
  });

  test("a high repetition penalty forbids repetition", async () => {
    const { ids } = await run({ repetitionPenalty: 1e6 });
    expect(new Set(ids).size).toBe(ids.length);
  });
});

test.each([
  [{ temperature: -1 }, "temperature: Too small"],
  [{ topK: 0 }, "topK: Too small"],
  [{ topP: 1.5 }, "topP: Too big"],
  [{ stop: [""] }, "stop.0: Too small"],
  [{ beams: 2, temperature: 1 }, "beam search draws nothing"],
  [{ beams: 2, repetitionPenalty: 1.2 }, "beam search has no repetition penalty"],
  [{ maxTokens: 3 }, 'options: Unrecognized key: "maxTokens"'],
])("a wrong option is named: %o", (options, message) => {
  const error = (() => {
    try {
      generate(decoder, tokenizer, "p", options as GenerateOptions);
    } catch (e) {
      return e as EspalierError;
    }
  })();
  expect(error?.code).toBe("bad-option");
  expect(error?.message).toContain(message);
});
