/** Against transformers' `apply_chat_template` (tests/fixtures/make_chat.py): text, ids and the mask of the assistant's tokens. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { ChatMessage } from "./chat-messages.ts";
import { ChatTemplate } from "./chat-template.ts";
import { encodeChat, encodeConversation, turnEnd } from "./encode-chat.ts";
import { Tokenizer } from "./tokenizer.ts";

interface Conversation {
  messages: ChatMessage[];
  tools?: object[];
  add_generation_prompt?: boolean;
}

interface Expected {
  models: Record<string, { template: string; tokenizer: string; special: Record<string, string> }>;
  conversations: Record<string, Conversation>;
  cases: { model: string; conversation: string; text: string; ids: string; assistant: string }[];
  refusals: { model: string; conversation: string; message: string }[];
  forged: Record<string, { messages: ChatMessage[]; parsed: number[]; sanitized: number[] }>;
}

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../../tests/fixtures/chat/${name}.json`, import.meta.url), "utf8"));
const expected = read("expected") as Expected;
const tokenizerOf = (model: string) => {
  const { tokenizer, special } = expected.models[model]!;
  return Tokenizer.fromJson(read(tokenizer), special);
};
const templateOf = (model: string, edit = (source: string) => source) => {
  const { template, special } = expected.models[model]!;
  return new ChatTemplate(edit(template), { specialTokens: special, where: model });
};
const optionsOf = ({ tools, add_generation_prompt }: Conversation) => ({ tools, addGenerationPrompt: add_generation_prompt });
const bits = (mask: readonly boolean[]) => mask.map(Number).join("");

describe.each(Object.keys(expected.models))("%s", (model) => {
  const [tokenizer, template] = [tokenizerOf(model), templateOf(model)];
  const cases = expected.cases.filter((c) => c.model === model);

  it.each(cases)("$conversation: text and ids", ({ conversation, text, ids }) => {
    const chat = expected.conversations[conversation]!;
    expect(template.render(chat.messages, optionsOf(chat))).toBe(text);
    expect(encodeChat(tokenizer, template, chat.messages, optionsOf(chat)).join(" ")).toBe(ids);
  });

  const whole = cases.filter(({ conversation }) => !expected.conversations[conversation]!.add_generation_prompt);
  it.each(whole)("$conversation: the assistant's tokens", ({ conversation, ids, assistant }) => {
    const { messages, tools } = expected.conversations[conversation]!;
    const encoded = encodeConversation(tokenizer, template, messages, { tools });
    expect(encoded.ids.join(" ")).toBe(ids);
    expect(bits(encoded.assistant)).toBe(assistant);
  });

  it.each(whole)("$conversation: the same tokens without {% generation %}, by prefixes", ({ conversation, ids, assistant }) => {
    const { messages, tools } = expected.conversations[conversation]!;
    const bare = templateOf(model, (source) =>
      source.replace(/\{%(-?) (end)?generation (-?)%\}/g, (_, a, __, b) => `{%${a} if true ${b}%}{% endif %}`),
    );
    expect(bare.hasGeneration()).toBe(false);
    if (model === "mistral" && conversation === "trained") {
      // It puts the system's words before the last question, so that the beginning depends on the end.
      expect(() => encodeConversation(tokenizer, bare, messages)).toThrow(/the first 2 messages alone become .* where the whole has/);
      return;
    }
    const encoded = encodeConversation(tokenizer, bare, messages, { tools });
    expect(encoded.ids.join(" ")).toBe(ids);
    expect(bits(encoded.assistant)).toBe(assistant);
  });
});

it.each(expected.refusals)("$model refuses $conversation with its own words", ({ model, conversation, message }) => {
  const { messages } = expected.conversations[conversation]!;
  expect(() => templateOf(model).render(messages)).toThrow(`${model} refuses this conversation: ${message}`);
});

describe("special tokens that a message spells out", () => {
  it.each(Object.entries(expected.forged))("%s: are text unless asked otherwise", (model, { messages, parsed, sanitized }) => {
    const [tokenizer, template] = [tokenizerOf(model), templateOf(model)];
    expect(encodeChat(tokenizer, template, messages, { specialTokensInMessages: "parse" })).toEqual(parsed);
    const ids = encodeChat(tokenizer, template, messages);
    expect(tokenizer.decode(ids)).toContain(messages[0]!.content);
    const special = (list: number[]) => list.filter((id) => tokenizer.isSpecial(id));
    expect(special(ids)).toEqual(special(sanitized));
    expect(special(ids).length).toBe(special(parsed).length - 1);
    // transformers cuts the text around such a token, we do not: the ids agree where nothing would join across the cut.
    if (model !== "mistral") expect(ids).toEqual(sanitized);
  });

  it("also where the template cuts or trims the text around them", () => {
    const tokenizer = tokenizerOf("chatml");
    const template = new ChatTemplate(
      "{% for m in messages %}{{ m.content.split('|')[0] | trim }}{{ m.content | tojson(ensure_ascii=true) }}{% endfor %}<|im_end|>",
    );
    const messages: ChatMessage[] = [{ role: "user", content: " <|im_end|>é " }];
    expect(template.render(messages)).toBe('<" <|im_end|>\\u00e9 "<|im_end|>');
    const ids = encodeChat(tokenizer, template, messages);
    expect(tokenizer.decode(ids)).toBe(template.render(messages));
    expect(ids.filter((id) => id === tokenizer.tokenId("<|im_end|>"))).toHaveLength(1);
  });
});

describe("the mask by hand", () => {
  // One token per letter and mark, so that every position can be counted.
  const letters = Tokenizer.fromJson({
    added_tokens: ["<U>", "<A>", "<E>"].map((content, id) => ({ id, content, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: { a: 3, b: 4, c: 5, d: 6, Ċ: 7 }, merges: [] },
  });
  const messages: ChatMessage[] = [
    { role: "user", content: "ab" },
    { role: "assistant", content: "cd" },
    { role: "user", content: "a" },
    { role: "assistant", content: "c" },
  ];
  const source =
    "{% for m in messages %}{{ '<U>' if m.role == 'user' else '<A>' }}{{ m.content }}<E>\n{% endfor %}{{ '<A>' if add_generation_prompt else '' }}";

  it("holds the answers and the tokens that end them", () => {
    const { ids, assistant } = encodeConversation(letters, new ChatTemplate(source), messages);
    //           <U> a  b <E> \n <A> c  d <E> \n <U> a <E> \n <A> c <E> \n
    expect(ids).toEqual([0, 3, 4, 2, 7, 1, 5, 6, 2, 7, 0, 3, 2, 7, 1, 5, 2, 7]);
    expect(bits(assistant)).toBe("000000111000000110");
  });

  it("is refused where earlier turns are written otherwise than the last", () => {
    const hides = new ChatTemplate(source.replace("{{ m.content }}", "{{ m.content if m.role == 'user' or loop.last else 'd' }}"), {
      where: "t.jinja",
    });
    expect(() => encodeConversation(letters, hides, messages)).toThrow(
      /^t\.jinja: the assistant's turn \(message 2\) cannot be found in the whole conversation: the first 2 messages alone become ".*" where the whole has ".*"\. Mark what the assistant says/,
    );
    expect(bits(encodeConversation(letters, hides, messages.slice(0, 2)).assistant)).toBe("0000001110");
  });

  it("tells how a turn ends", () => {
    expect(turnEnd(letters, new ChatTemplate(source))).toEqual({ id: 2 });
    expect(turnEnd(letters, ChatTemplate.builtIn("chatml"))).toEqual({ text: "<|im_end|>" });
    expect(turnEnd(letters, new ChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}"))).toEqual({});
    for (const [model, id] of Object.entries({ "llama-3": "<|eot_id|>", gemma: "<end_of_turn>", mistral: "</s>", "phi-3": "<|end|>" }))
      expect(turnEnd(tokenizerOf(model), templateOf(model)), model).toEqual({ id: tokenizerOf(model).tokenId(id) });
  });
});
