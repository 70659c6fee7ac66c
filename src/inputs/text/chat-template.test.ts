import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { EspalierError } from "../../graph/errors.ts";
import type { ChatMessage } from "./chat-messages.ts";
import { ChatTemplate } from "./chat-template.ts";
import { chatTemplateFromDirectory } from "./chat-template-directory.ts";

const hello: ChatMessage[] = [{ role: "user", content: "hello" }];
const template = (source: string, options = {}) => new ChatTemplate(source, { where: "t.jinja", ...options });
const render = (source: string, options = {}) => template(source).render(hello, options);

describe("ChatTemplate", () => {
  it("gives templates transformers' variables and helpers", () => {
    const source =
      "{{ bos_token }}|{{ tools is none }}|{{ add_generation_prompt }}|{{ enable_thinking }}|{{ messages | tojson(indent=1) }}";
    const out = new ChatTemplate(source, { specialTokens: { bos_token: "<s>" } }).render(hello, { variables: { enable_thinking: false } });
    expect(out).toBe('<s>|true|false|false|[\n {\n  "role": "user",\n  "content": "hello"\n }\n]');
    const now = new Date(2024, 6, 4, 15, 5, 9);
    expect(render("{{ strftime_now('%d %b %Y, %A %B %-d %I:%M:%S %p %j %y %% %Q') }}", { now })).toBe(
      "04 Jul 2024, Thursday July 4 03:05:09 PM 186 24 % %Q",
    );
  });

  it("chooses among named templates as transformers does", () => {
    const several = new ChatTemplate({ default: "d", tool_use: "t", rag: "r" });
    const tools = [{ type: "function" }];
    expect([several.render(hello), several.render(hello, { tools }), several.render(hello, { tools, name: "rag" })]).toEqual([
      "d",
      "t",
      "r",
    ]);
    expect(() => several.render(hello, { name: "x" })).toThrow(/has no template called "x"; it has default, tool_use, rag\./);
    expect(new ChatTemplate({ only: "o" }).render(hello)).toBe("o");
  });

  it("drops empty keys, and joins parts of text where a template knows no parts", () => {
    const parts: ChatMessage[] = [
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
        name: null,
      },
    ];
    expect(template("{{ messages[0].content }}{{ messages[0].name is defined }}").render(parts)).toBe("abfalse");
    expect(template("{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}").render(parts)).toBe("[a][b]");
    const image: ChatMessage[] = [{ role: "user", content: [{ type: "image" }] }];
    expect(() => template("{{ messages[0].content }}").render(image)).toThrow(
      /Message 1 holds a part of type "image", and t\.jinja takes text only/,
    );
    const thinks: ChatMessage[] = [{ role: "assistant", content: "a", reasoning: "why" }];
    expect(template("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}").render(thinks)).toBe("whywhy");
  });

  it.each([
    [[], /The conversation: there is no message/],
    [[{ role: "robot", content: "a" }], /Message 1, role: /],
    [[...hello, { role: "assistant" }], /Message 2: has no content/],
    [[{ role: "user", content: 3 }], /Message 1, content: must be a string or a list of parts/],
  ])("refuses %j", (messages, message) => {
    expect(() => template("x").render(messages as ChatMessage[])).toThrow(message);
  });

  it("names what a template refuses, in the template's words and without control characters", () => {
    const error = (() => {
      try {
        return render("{{ raise_exception('only \\u001b[31m cats') }}");
      } catch (caught) {
        return caught;
      }
    })();
    expect(error).toMatchObject({ code: "chat-template-refused", message: "t.jinja refuses this conversation: only  [31m cats" });
  });

  it.each([
    ["{% if x %}", /t\.jinja is not a usable Jinja template: a block or an expression is not closed/],
    ["{% for %}", /t\.jinja is not a usable Jinja template: Unexpected token/],
    ["{% nonsense %}", /Unknown statement type: nonsense/],
    ["{{ 'a }}", /not a usable Jinja template/],
    [`${" ".repeat(20_000)}{% generation %}`, /more than 10,000 blanks in a row/],
  ])("says what is wrong with the source %j", (source, message) => {
    expect(() => template(source)).toThrow(message);
    expect(() => template(source)).toThrow(EspalierError);
  });

  it.each([
    ["a list without an end", "{% for i in range(10**9) %}x{% endfor %}", /range\(0, 1000000000, 1\) is longer than 100000/],
    ["loops in loops", "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}", /not done after 0\.2 seconds/],
    ["a macro that calls itself", "{% macro f(f) %}{{ f(f) }}{% endmacro %}{{ f(f) }}", /calls itself without an end/],
    ["a text that doubles", "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", /longer than/],
    ["a list that doubles", "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}", /longer than/],
    ["an undefined value", "{{ nothing + 'a' }}", /on undefined values/],
    ["a break outside of a loop", "{% break %}", /it ends in a place where it must not/],
  ])("ends with an error at %s", (_, source, message) => {
    const started = performance.now();
    expect(() => template(source, { timeLimit: 0.2 }).render(hello)).toThrow(message);
    expect(() => template(source, { timeLimit: 0.2 }).render(hello)).toThrow(EspalierError);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  it("has a built-in format for those who ask", () => {
    expect(ChatTemplate.builtIn("chatml").render([...hello, { role: "assistant", content: "hi" }], { addGenerationPrompt: true })).toBe(
      "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nhi<|im_end|>\n<|im_start|>assistant\n",
    );
    expect(() => ChatTemplate.builtIn("alpaca")).toThrow('There is no chat format "alpaca"; the built-in ones are chatml.');
  });
});

describe("chatTemplateFromDirectory", () => {
  const directory = (files: Record<string, unknown>) => {
    const at = mkdtempSync(join(tmpdir(), "espalier-chat-"));
    mkdirSync(join(at, "additional_chat_templates"));
    for (const [name, value] of Object.entries(files))
      writeFileSync(join(at, name), typeof value === "string" ? value : JSON.stringify(value));
    return at;
  };
  const said = (files: Record<string, unknown>, options = {}) => chatTemplateFromDirectory(directory(files)).render(hello, options);

  it("reads each place where checkpoints keep it, chat_template.jinja first", () => {
    const config = { bos_token: { content: "<s>" }, chat_template: "config{{ bos_token }}" };
    expect(said({ "tokenizer_config.json": config })).toBe("config<s>");
    expect(said({ "tokenizer_config.json": config, "chat_template.jinja": "file{{ bos_token }}\n" })).toBe("file<s>");
    expect(said({ "chat_template.json": { chat_template: "json{{ eos_token }}" }, "special_tokens_map.json": { eos_token: "</s>" } })).toBe(
      "json</s>",
    );
    const named = {
      chat_template: [
        { name: "default", template: "d" },
        { name: "rag", template: "r" },
      ],
    };
    expect(said({ "tokenizer_config.json": named }, { name: "rag" })).toBe("r");
    expect(said({ "chat_template.jinja": "d", "additional_chat_templates/rag.jinja": "r" }, { name: "rag" })).toBe("r");
  });

  it("reads the template of a GGUF file", () => {
    const gguf = new URL("../../../tests/fixtures/gguf-tiny/tokenizer-smollm.gguf", import.meta.url).pathname;
    const found = chatTemplateFromDirectory(gguf);
    expect(found.render(hello)).toBe("hello");
    expect(found.specialTokens).toMatchObject({ bos_token: "<|im_start|>" });
  });

  it("names the file that is broken, and what a model without one needs", () => {
    expect(() => said({ "tokenizer_config.json": { chat_template: "{% if %}" } })).toThrow(
      /tokenizer_config\.json: chat_template is not a usable Jinja template/,
    );
    expect(() => said({ "tokenizer_config.json": { chat_template: 3 } })).toThrow(/chat_template must be a text, or a list/);
    expect(() => said({ "tokenizer_config.json": "{" })).toThrow(/tokenizer_config\.json is not valid JSON/);
    const bare = directory({});
    expect(() => chatTemplateFromDirectory(bare)).toThrow(/has no chat template .* ask for it: --chat-format chatml\.$/);
    expect(chatTemplateFromDirectory(bare, { format: "chatml" }).format).toBe("chatml");
  });
});
