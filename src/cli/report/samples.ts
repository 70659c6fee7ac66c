import type { Conversation } from "../../data/conversations.ts";
import type { Example } from "../../data/index.ts";
import { chatPrompt, Decoder, generate } from "../../generate/index.ts";
import { type ChatMessage, turnEnd } from "../../inputs/index.ts";
import { chatTemplateFromDirectory } from "../../inputs/text/chat-template-directory.ts";
import { CausalLM } from "../../models/index.ts";
import type { Device } from "../../runtime/index.ts";
import type { ChatRecord } from "../../train/tasks/chat.ts";
import type { Loaded } from "../../train/tasks/kind.ts";
import type { LoadedText } from "../../train/tasks/loaded-text.ts";
import type { AnyTaskKind, TaskRecord } from "../../train/tasks/table.ts";

/** An input as a report shows it, and what the data say of it. */
export interface Sample {
  input: string;
  expected?: string;
}

/** A few held-out examples, of which a model is asked before and after training. */
export interface Sampler {
  readonly samples: readonly Sample[];
  /** The present model's answer to each. */
  outputs(): Promise<string[]>;
}

interface SampledTask {
  kind: AnyTaskKind;
  loaded: Loaded;
  record: TaskRecord;
  heldOut: readonly Example[];
}

const [sampleCount, shownCharacters, promptCharacters, newTokens] = [4, 600, 240, 48];

/** Undefined for tasks whose answers cannot be shown as text. */
export function sampler({ kind, loaded, record, heldOut }: SampledTask, device: Device): Sampler | undefined {
  const chosen = Array.from(
    { length: Math.min(sampleCount, heldOut.length) },
    (_, i) => heldOut[Math.floor((i * heldOut.length) / sampleCount)] ?? heldOut[i]!,
  );
  if (kind.predictor && kind.sample) {
    const asked = chosen.map((example) => kind.sample!(example));
    return {
      samples: asked.map(({ shown, expected }) => ({
        input: shortened(shown),
        ...(expected !== undefined && { expected: shortened(expected) }),
      })),
      async outputs() {
        const predictor = kind.predictor!(loaded, record, device);
        try {
          const { results } = await predictor.predict(asked.map(({ input }) => input));
          return results.map(({ shown }) => shown.trim());
        } finally {
          await predictor.dispose();
        }
      },
    };
  }
  if (!(loaded.model instanceof CausalLM) || !["language-modeling", "chat"].includes(kind.name)) return undefined;
  return writer(loaded as LoadedText<CausalLM>, kind.name === "chat" ? (record as ChatRecord) : undefined, chosen, device);
}

/** Language models go on with the beginning of a text; of conversations they give the assistant's last turn. */
function writer(
  { model, tokenizer, directory }: LoadedText<CausalLM>,
  chat: ChatRecord | undefined,
  examples: readonly Example[],
  device: Device,
): Sampler {
  const template = chat && chatTemplateFromDirectory(directory, { format: chat.chatFormat });
  const end = template && turnEnd(tokenizer, template).id;
  const tasks = examples.flatMap((example): (Sample & { prompt: string | number[] })[] => {
    if (!template) {
      const half = example.text.slice(0, Math.min(promptCharacters, Math.ceil(example.text.length / 2)));
      const prompt = half.replace(/(\s+)\S*$/, ""); // whole words
      return prompt.trim() === ""
        ? []
        : [{ input: prompt, prompt, expected: shortened(example.text.slice(prompt.length, prompt.length + promptCharacters)) }];
    }
    const { messages } = example as Conversation;
    const last = messages.findLastIndex(({ role }) => role === "assistant");
    if (last < 1) return [];
    const { ids } = chatPrompt(tokenizer, template, messages.slice(0, last), { context: model.contextLength, maxNewTokens: newTokens });
    return [{ input: shortened(asText(messages[last - 1]!)), prompt: [...ids], expected: shortened(asText(messages[last]!)) }];
  });
  return {
    samples: tasks.map(({ input, expected }) => ({ input, ...(expected !== undefined && { expected }) })),
    async outputs() {
      const decoder = await Decoder.create(device, model);
      try {
        const texts: string[] = [];
        for (const { prompt } of tasks) {
          texts.push(
            (
              await generate(decoder, tokenizer, prompt, {
                maxNewTokens: newTokens,
                temperature: 0,
                endIds: end === undefined ? [] : [end],
                overflow: "truncate",
              }).result()
            ).text,
          );
        }
        return texts;
      } finally {
        await decoder.dispose();
      }
    },
  };
}

const shortened = (text: string): string => (text.length > shownCharacters ? `${text.slice(0, shownCharacters)} …` : text);

/** Of a message in parts, what they hold. */
const asText = ({ content }: ChatMessage): string => (typeof content === "string" ? content : JSON.stringify(content ?? ""));
