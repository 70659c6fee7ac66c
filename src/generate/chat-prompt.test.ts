import { expect, test } from "vitest";
import { type ChatMessage, ChatTemplate, Tokenizer, trainByteLevelBpe } from "../inputs/index.ts";
import { chatPrompt } from "./chat-prompt.ts";

// Without merges every letter is a token, and so is each marker of the template.
const tokenizer = Tokenizer.fromJson(trainByteLevelBpe(["a"], { vocabSize: 260, specialTokens: ["<s>", "<u>", "<m>"] }));
const template = new ChatTemplate(
  "{% for m in messages %}{{ {'system': '<s>', 'user': '<u>', 'assistant': '<m>'}[m.role] + m.content }}{% endfor %}{{ '<m>' if add_generation_prompt else '' }}",
);
const messages: ChatMessage[] = [
  { role: "system", content: "sys" }, // 4 tokens with its marker
  { role: "user", content: "12345" }, // 6
  { role: "assistant", content: "123" }, // 4
  { role: "user", content: "12345" }, // 6
  { role: "assistant", content: "123" }, // 4
  { role: "user", content: "end" }, // 4, and 1 for the answer's marker
];
const prompt = (context: number, maxNewTokens: number) => chatPrompt(tokenizer, template, messages, { context, maxNewTokens });

test("the oldest turns go, one by one, and what the system says stays", () => {
  expect(prompt(39, 10)).toMatchObject({ dropped: 0, messages, ids: { length: 29 } });
  expect(prompt(38, 10)).toMatchObject({ dropped: 2, messages: [messages[0], ...messages.slice(3)], ids: { length: 19 } });
  expect(prompt(28, 10)).toMatchObject({ dropped: 4, messages: [messages[0], messages[5]], ids: { length: 9 } });
  expect(tokenizer.decode(prompt(28, 10).ids)).toBe("<s>sys<u>end<m>");
});

test("half of the context at most is kept free for the answer", () => {
  expect(prompt(58, 1000).dropped).toBe(0);
  expect(prompt(56, 1000).dropped).toBe(2);
});

test("the last turn may use the answer's room, but not all of it", () => {
  expect(prompt(10, 10)).toMatchObject({ dropped: 4, ids: { length: 9 } });
  expect(() => prompt(9, 10)).toThrow(/The message takes 9 tokens .* context of 9\. Shorten it by 1 tokens\./);
});
