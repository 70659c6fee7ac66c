import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { ChatModels } from "../../src/cli/chat-models.ts";
import { ChatSession } from "../../src/cli/chat-session.ts";
import { defaultModel } from "../../src/cli/default-model.ts";
import { cpu } from "../../src/runtime/node.ts";
import { espalier, type Outcome, refusal, scratch, startEspalier, summary } from "./command.ts";
import { writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);

const fruits = ["pear", "apple", "quince", "plum", "cherry", "fig", "medlar", "peach", "mulberry", "damson"];
const conversation = (i: number) => ({
  messages: [
    { role: "user", content: `where does the ${fruits[i % 10]} grow${i < 10 ? "" : ` in year ${i}`}?` },
    { role: "assistant", content: `The ${fruits[i % 10]} grows along the south wall.` },
  ],
});
const data = at("chat.jsonl");
writeFileSync(data, Array.from({ length: 20 }, (_, i) => JSON.stringify(conversation(i))).join("\n"));

let trained: Outcome;
let result: Record<string, unknown>;
beforeAll(async () => {
  const flags = ["--steps", "25", "--batch-size", "8", "--max-length", "64", "--learning-rate", "5e-3", "--threads", "1"];
  trained = await espalier("train", "--data", data, "--chat-format", "chatml", "--run", at("run"), ...flags, "--json");
  result = summary(trained);
});

describe("train on conversations", () => {
  test("is seen in the data, and lowers the loss of what the assistant says", () => {
    expect(result).toMatchObject({ task: "chat", metric: "perplexity", steps: 25 });
    expect(result.evalLossAfter).toBeLessThan(0.2 * (result.evalLossBefore as number));
    expect(result.finalMetric).toBeCloseTo(Math.exp(result.evalLossAfter as number), 6);
    expect(trained.stdout).toMatch(/\d+ training and \d+ held-out conversations, in which the assistant says \d+ and \d+ tokens/);
    expect(trained.stdout).toMatch(/The turns of the chat format chatml end with "<\|im_end\|>", which is no token .* no token is added/);
    const record = JSON.parse(readFileSync(join(result.adapter as string, "espalier.json"), "utf8"));
    expect(record).toEqual({ task: "chat", maxLength: 64, chatFormat: "chatml" });
  });

  test("eval measures the same, in the format that the adapter was trained with", async () => {
    const evaluated = summary(await espalier("eval", "--data", data, "--adapter", result.adapter as string, "--json"));
    expect(evaluated).toMatchObject({ task: "chat", examples: 20 });
    expect(evaluated.loss).toBeLessThan(result.evalLossBefore as number);
    const base = summary(await espalier("eval", "--data", data, "--chat-format", "chatml", "--max-length", "64", "--json"));
    expect(evaluated.loss).toBeLessThan(0.2 * (base.loss as number));
  });

  test("says what is cut and left out, and refuses data of which nothing is left", async () => {
    const cut = ["--data", data, "--chat-format", "chatml", "--steps", "1", "--threads", "1"];
    // The first questions leave room for some of the assistant's words, most of those with a year do not.
    const { stdout, code } = await espalier("train", ...cut, "--run", at("short"), "--max-length", "40");
    expect(code).toBe(0);
    expect(stdout).toMatch(/\d+ of 16 training conversations are longer than 40 tokens \(the longest has \d+\): their ends were cut off/);
    expect(stdout).toMatch(/[1-9]\d* of 16 training conversations were left out: the assistant says nothing in what is kept of them/);
    expect(refusal(await espalier("train", ...cut, "--run", at("shorter"), "--max-length", "8"))).toMatch(
      /In none of the 16 training conversations does the assistant say anything within 8 tokens/,
    );
  });

  test("needs a template, and conversations", async () => {
    expect(refusal(await espalier("train", "--data", data, "--run", at("none")))).toMatch(
      /has no chat template .* ask for it: --chat-format chatml/,
    );
    const texts = at("texts.jsonl");
    writeFileSync(texts, '{"text": "a"}\n{"text": "b"}');
    expect(refusal(await espalier("train", "--data", texts, "--task", "chat"))).toMatch(/line 1: has no list "messages"/);
    expect(refusal(await espalier("train", "--data", texts, "--chat-format", "chatml"))).toMatch(
      /--chat-format is an option of chat and preference, and this is language-modeling/,
    );
  });
});

/** A chat whose standard input is a pipe. */
async function piped(lines: readonly string[], ...args: string[]): Promise<Outcome> {
  const { child, done } = startEspalier(["chat", ...args], { stdin: "pipe" });
  child.stdin!.end(lines.join("\n"));
  return done;
}

describe("chat", () => {
  test("answers one message per line and keeps the history, on sapling in chatml", async () => {
    const saved = at("saved.jsonl");
    writeFileSync(saved, "{}"); // without a line's end
    const lines = ["Hello!", "", "/system Be brief.", "//help is what I wrote", `/save ${saved}`];
    const args = ["--chat-format", "chatml", "--max-new-tokens", "12", "--system", "You help.", "--json"];
    const { stdout, stderr, code } = await piped(lines, ...args);
    expect(code).toBe(0);
    const { messages, adapter } = JSON.parse(stdout.trimEnd().split("\n").at(-1)!);
    expect(messages).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hello!" },
      { role: "assistant", content: expect.stringMatching(/./) },
      { role: "user", content: "/help is what I wrote" },
      { role: "assistant", content: expect.stringMatching(/./) },
    ]);
    expect(adapter).toBeNull();
    // The answers and nothing else are on standard output: no prompt, no escape sequence.
    const shown = stdout.slice(0, stdout.lastIndexOf('{"messages"'));
    expect(shown.replace(/\s/g, "")).toBe((messages[2].content + messages[4].content).replace(/\s/g, ""));
    expect(stdout + stderr).not.toContain("\u001b");
    expect(stderr).toContain(`System: Be brief.\n`);
    expect(readFileSync(saved, "utf8")).toBe(`{}\n${JSON.stringify({ messages })}\n`);
    expect((await piped(lines.slice(0, 4), ...args)).stdout).toBe(stdout); // the same for the same seed
  }, 60_000);

  test("answers as the adapter was taught, and switches", async () => {
    const args = ["--adapter", `taught=${result.adapter}`, "--temperature", "0", "--max-new-tokens", "40", "--json"];
    const lines = ["where does the plum grow?", "/reset", "/adapter none", "where does the plum grow?", "/adapter"];
    const { stdout, stderr } = await piped(lines, ...args);
    const [taught] = stdout.split("\n");
    expect(taught).toMatch(/grows along the south wall\.$/);
    expect(stdout).not.toContain("<|im_end|>");
    expect(JSON.parse(stdout.trimEnd().split("\n").at(-1)!).messages[1].content).not.toMatch(/grows along the south wall/);
    expect(stderr).toContain("Adapters: [none]  taught\n");
    // The name of the run will do.
    const { stdout: again } = await piped([lines[0]!, "/exit", "not read"], "--adapter", result.adapter as string, ...args.slice(2));
    expect(JSON.parse(again.trimEnd().split("\n").at(-1)!)).toMatchObject({ adapter: "run", messages: { length: 2 } });
  }, 60_000);

  test("drops the oldest turns where the context is full, and says so", async () => {
    const model = writeTinyModel(at("model"), { context: 160 });
    const lines = Array.from({ length: 3 }, () => "where does the plum grow now?");
    const { stderr, stdout, code } = await piped(lines, "--model", model, "--chat-format", "chatml", "--max-new-tokens", "8", "--json");
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/longer than the context: its oldest 2 messages were dropped/),
    });
    expect(JSON.parse(stdout.trimEnd().split("\n").at(-1)!).messages.length).toBeLessThan(6);
    expect(refusal(await piped(["where ".repeat(60)], "--model", model, "--chat-format", "chatml"))).toMatch(
      /The message takes \d+ tokens .* context of 160\. Shorten it by \d+ tokens/,
    );
  }, 60_000);

  test("Ctrl-C ends a chat that reads a pipe, with the answer and without the lines that follow", async () => {
    const { child, done, outcome } = startEspalier(["chat", "--chat-format", "chatml", "--max-new-tokens", "480"], { stdin: "pipe" });
    child.stdin!.write("Hello!\n/system Never read.\nAnd again!\n"); // and its end stays open
    await vi.waitFor(() => expect(outcome.stdout.length).toBeGreaterThan(20), { timeout: 30_000, interval: 5 });
    child.kill("SIGINT");
    expect(await done).toMatchObject({ code: 130, signal: null });
    expect(outcome.stderr).toContain("Stopped.\n");
    expect(outcome.stderr).not.toContain("System:");
  }, 60_000);

  test("an answer that is stopped, as Ctrl-C does at a terminal, can be asked for again", async () => {
    const device = cpu({ threads: 1 });
    const models = new ChatModels(device, { adapters: new Map(), chatFormat: "chatml", baseDtype: "f32" });
    const answers = [""];
    const notices: string[] = [];
    const session: ChatSession = new ChatSession(
      models,
      await models.open(undefined),
      { temperature: 0, maxNewTokens: 60 },
      {
        answer: (piece) => {
          answers.push(answers.pop() + piece);
          if (answers.length === 1 && answers[0]!.length > 20) session.stop();
        },
        notice: (text) => notices.push(text),
      },
    );
    expect(session.stop()).toBe(false);
    await session.take("Hello!");
    expect(notices).toEqual(["Stopped."]);
    answers.push("");
    expect(await session.take("/retry")).toBe("on");
    expect(answers[1]!.length).toBeGreaterThan(answers[0]!.trimEnd().length);
    expect(answers[1]).toContain(answers[0]!.trimEnd());
    expect(session.messages).toHaveLength(2);
    await models.dispose();
  });

  test("refuses what it cannot do", async () => {
    expect(refusal(await piped(["/retry"], "--chat-format", "chatml"))).toMatch(/There is no message to answer again/);
    expect(refusal(await piped(["/rety"], "--chat-format", "chatml"))).toMatch(/There is no command \/rety; \/retry is the nearest/);
    expect(refusal(await piped(["/adapter x"], "--chat-format", "chatml"))).toMatch(/no adapter "x"; none was given with --adapter/);
    expect(refusal(await espalier("chat"))).toMatch(new RegExp(`${defaultModel} has no chat template`));
    expect(refusal(await espalier("chat", "--adapter", "none=x"), 2)).toMatch(/An adapter cannot be called "none"/);
    expect(refusal(await espalier("chat", "--chat-format", "alpaca"), 2)).toMatch(/Allowed choices are chatml/);
  }, 60_000);
});
