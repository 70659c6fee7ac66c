import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, jsonChanges, mutated, numRuns, tally, timeout } from "../../../tests/fuzz.ts";
import { EspalierError } from "../../graph/errors.ts";
import type { ChatMessage } from "./chat-messages.ts";
import { ChatTemplate } from "./chat-template.ts";
import { chatTemplateFromDirectory } from "./chat-template-directory.ts";
import { encodeChat, encodeConversation } from "./encode-chat.ts";
import { Tokenizer } from "./tokenizer.ts";

const read = (name: string) => JSON.parse(readFileSync(new URL(`../../../tests/fixtures/chat/${name}.json`, import.meta.url), "utf8"));
const { models } = read("expected") as {
  models: Record<string, { template: string; tokenizer: string; special: Record<string, string> }>;
};

const pieces = [
  "{% for m in messages %}",
  "{% endfor %}",
  "{% if m %}",
  "{% else %}",
  "{% endif %}",
  "{% generation %}",
  "{% endgeneration %}",
  "{% set x = messages %}",
  "{% macro f(x) %}",
  "{% endmacro %}",
  "{% break %}",
  "{{ m.content }}",
  "{{ m['content'] | trim + eos_token }}",
  "{{ x[0].content[::-1] | upper }}",
  "{{ raise_exception(x) }}",
  "{{ range(0, 9, 0) }}",
  "{{ f(f) }}",
  "{{ messages | tojson(indent=2) }}",
  "{{ strftime_now('%d') }}",
  "{{ 'a' ~ 1 / 0 }}",
  "{#",
  "#}",
  "{%-",
  "-}}",
  "'",
  "(",
  "\n ",
  "é\u{e000}",
];

test("pieces of Jinja in any order: a text, or an EspalierError and never anything else", () => {
  const tokenizer = Tokenizer.fromJson(read("byte-level"));
  const messages: ChatMessage[] = [
    { role: "user", content: "<|im_end|>\u{e000} a" },
    { role: "assistant", content: "b" },
  ];
  let rendered = 0;
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 12 }), (parts) => {
      try {
        const template = new ChatTemplate(parts.join(""), { timeLimit: 1 });
        expect(typeof template.render(messages)).toBe("string");
        rendered++;
        const { ids, assistant } = encodeConversation(tokenizer, template, messages);
        expect(assistant).toHaveLength(ids.length);
      } catch (error) {
        expect(error).toBeInstanceOf(EspalierError);
      }
    }),
    { numRuns: 1500 },
  );
  expect(rendered).toBeGreaterThan(50);
});

const directory = fuzzDirectory();

test("any change of a published template, and of the file that holds it", { timeout }, () => {
  const outcomes = tally();
  const sources = Object.values(models).map(({ template }) => template);
  const messages: ChatMessage[] = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ];
  const use = (bytes: number) =>
    attempt({ names: directory.path, bytes }, () => {
      const template = chatTemplateFromDirectory(directory.path);
      template.render(messages, { addGenerationPrompt: true });
    });
  const [jinja, config] = ["chat_template.jinja", "tokenizer_config.json"];
  const write = (name: string, content: string | Uint8Array) => writeFileSync(join(directory.path, name), content);
  fc.assert(
    fc.property(fc.constantFrom(...sources), byteMutations, (source, mutations) => {
      const changed = mutated(Buffer.from(source), mutations);
      write(jinja, changed);
      outcomes.count(use(changed.length));
    }),
    { numRuns: Math.ceil(numRuns / 2) },
  );
  rmSync(join(directory.path, jinja));
  const configs = sources.map((chat_template) => JSON.stringify({ chat_template, bos_token: "<s>", eos_token: { content: "</s>" } }));
  fc.assert(
    fc.property(fc.constantFrom(...configs).chain(jsonChanges), (changed) => {
      write(config, changed);
      outcomes.count(use(changed.length));
    }),
    { numRuns: Math.ceil(numRuns / 2) },
  );
  outcomes.expectBoth();
});

test.each(Object.keys(models))("%s: whatever a user writes, the special tokens are the template's", (name) => {
  const { template: source, tokenizer: kind, special } = models[name]!;
  const tokenizer = Tokenizer.fromJson(read(kind), special);
  const template = new ChatTemplate(source, { specialTokens: special });
  const chat = (content: string): ChatMessage[] => [{ role: "user", content }];
  const specialIds = (content: string) =>
    encodeChat(tokenizer, template, chat(content), { addGenerationPrompt: true }).filter((id) => tokenizer.isSpecial(id));
  const expected = specialIds("x");
  const written = fc.array(
    fc.oneof(fc.constantFrom(...tokenizer.specialTokens, "<", "|", ">", "\n", " ", "\u{e000}", "\ufdd0"), fc.string()),
  );
  fc.assert(
    fc.property(written, (parts) => {
      const content = `x${parts.join("")}`;
      // The unknown token is special, too, and stands for what a vocabulary cannot spell.
      expect(specialIds(content).filter((id) => id !== tokenizer.unkId)).toEqual(expected);
      if (kind === "byte-level")
        expect(tokenizer.decode(encodeChat(tokenizer, template, chat(content)))).toBe(template.render(chat(content)));
    }),
    { numRuns: 150 },
  );
});
