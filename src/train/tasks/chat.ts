import { z } from "zod";
import { readConversations } from "../../data/conversations.ts";
import {
  type Conversation,
  conversationBatch,
  conversationBatches,
  conversationExamples,
  packedBatches,
  type Truncation,
} from "../../data/index.ts";
import { cachedTable, contentKeyOf, openConversations, type TokenCacheOptions, tokenizerKey } from "../../data/records.ts";
import { EspalierError } from "../../graph/index.ts";
import { type ChatTemplate, encodeConversation, type Tokenizer, turnEnd } from "../../inputs/index.ts";
import { chatTemplateFromDirectory } from "../../inputs/text/chat-template-directory.ts";
import type { CausalLM } from "../../models/causal-lm.ts";
import { loadCausalLM } from "../../models/load.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { causalLanguageModel } from "../objectives/index.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf, trainingBuckets } from "./loaded-text.ts";
import { packingNote } from "./packing-note.ts";
import { streamedTexts } from "./streaming.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({ task: z.literal("chat"), maxLength: z.int().positive(), chatFormat: z.string().optional() });
export type ChatRecord = z.output<typeof record>;

/** What the assistant says. */
export const chat: TaskKind<Conversation, ChatRecord, LoadedText<CausalLM>> = {
  name: "chat",
  summary: "what the assistant says in conversations",
  data: '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
  needs: "causalLM",
  options: ["chatFormat", "packing", "buckets", "maxShapes"],
  record,
  recognises: ({ conversations }) => conversations,
  read: readConversations,
  plan({ directory, options: { maxLength = defaultLength, chatFormat }, previous }) {
    const asked = chatFormat ?? (previous?.task === "chat" ? (previous as ChatRecord).chatFormat : undefined);
    const { format } = chatTemplateFromDirectory(directory, { format: asked });
    return { task: "chat", maxLength, ...(format !== undefined && { chatFormat: format }) };
  },
  load: (directory) => loadText(directory, loadCausalLM),
  task({ model, tokenizer, directory }, data, { chatFormat, maxLength }, device) {
    return chatTask(model, tokenizer, chatTemplateFromDirectory(directory, { format: chatFormat }), device, { ...data, maxLength });
  },
  streaming: {
    open: openConversations,
    async train({ tokenizer, directory }, data, { chatFormat, maxLength }) {
      const template = chatTemplateFromDirectory(directory, { format: chatFormat });
      const padId = padIdOf(tokenizer);
      const { train, notes } = streamedTexts(data, {
        maxLength,
        encode(conversation) {
          const description = `${conversation.file}:${conversation.line}`;
          const encoded = { ...encode(tokenizer, template, conversation), description };
          const [example] = conversationExamples([encoded], maxLength).examples;
          // Its place in the batch is taken all the same: which batches there are must not depend on what is in them.
          return example ?? { ids: encoded.ids.slice(0, 1), targets: [-100], description };
        },
        assemble: (examples, length) => conversationBatch(examples, { rows: data.batchSize, length, padId }),
      });
      const count = Object.values(data.sources).reduce((n, { records }) => n + records.length, 0);
      return { train, notes: [`${count} training and ${data.heldOut.length} held-out conversations`, ...notes] };
    },
  },
  interchangeable: true,
  withLength: (record, maxLength) => ({ ...record, maxLength }),
};

export interface ChatTaskOptions extends TaskData<Conversation> {
  /** Tokens per conversation. */
  maxLength: number;
  /** Whether several conversations share a row of a training batch. Default: one to a row. */
  packing?: boolean;
}

/** Conversations, of which the assistant's turns are learnt; quality is stated as the perplexity of its tokens in held-out ones. */
export function chatTask(model: CausalLM, tokenizer: Tokenizer, template: ChatTemplate, device: Device, options: ChatTaskOptions): Task {
  const { batchSize, maxLength, seed } = options;
  const prepare = (conversations: readonly Conversation[]) =>
    conversationExamples(encodeAll(tokenizer, template, conversations, options.cache), maxLength);
  const [trainSet, heldSet] = [prepare(options.train), prepare(options.heldOut)];
  for (const [name, { examples, truncation }] of Object.entries({ training: trainSet, "held-out": heldSet })) {
    if (examples.length > 0 || truncation.of === 0) continue;
    throw new EspalierError(
      "no-targets",
      `In none of the ${truncation.of} ${name} conversations does the assistant say anything within ${maxLength} tokens (the longest has ${truncation.longest}). Raise --max-length or shorten what stands before.`,
    );
  }
  const lengths = trainingBuckets(
    trainSet.examples.map(({ ids }) => ids.length),
    maxLength,
    options,
  );
  const common = { batchSize, padId: padIdOf(tokenizer), buckets: lengthBuckets(maxLength), seed };
  const packed = options.packing ? packedBatches(trainSet.examples, { ...common, sequenceLength: maxLength }) : undefined;
  const heldSource = conversationBatches(heldSet.examples, { ...common, shuffle: false });
  const objective = causalLanguageModel(model);
  const evaluator = new Evaluator(device, objective);
  const targets = (set: typeof trainSet) => set.examples.reduce((n, example) => n + example.targets.filter((id) => id !== -100).length, 0);
  const heldOutNotes = [...markerNote(tokenizer, template), ...lossNotes("held-out", heldSet)];
  return {
    name: "chat",
    model,
    objective,
    train: packed ?? batchesOf(trainSet.examples, (examples) => conversationBatches(examples, { ...common, buckets: lengths.buckets })),
    notes: [
      `${options.train.length} training and ${options.heldOut.length} held-out conversations, in which the assistant says ${targets(trainSet)} and ${targets(heldSet)} tokens`,
      ...(packed ? [packingNote(trainSet.examples.length, packed, maxLength)] : lengths.notes),
      ...lossNotes("training", trainSet),
      ...heldOutNotes,
    ],
    heldOutNotes,
    metric: "perplexity",
    higherIsBetter: false,
    length: maxLength,
    record: { task: "chat", maxLength, ...(template.format !== undefined && { chatFormat: template.format }) } satisfies ChatRecord,
    async evaluate(onProgress) {
      const { loss } = await evaluator.run(heldSource, undefined, onProgress);
      await evaluator.dispose(); // see rowsOfLogits
      return { loss, perplexity: Math.exp(loss) };
    },
    dispose: () => evaluator.dispose(),
  };
}

/** Ids and who says them, from the cache where these conversations were encoded before. */
function encodeAll(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  conversations: readonly Conversation[],
  cache: TokenCacheOptions = { cache: false },
) {
  const tokenizerPart = tokenizerKey(tokenizer);
  const known = tokenizerPart !== undefined && template.fingerprint !== undefined;
  const said = conversations.map(({ messages, tools }) => JSON.stringify([messages, tools]));
  const table = cachedTable(
    contentKeyOf(["conversations", tokenizerPart ?? "", template.fingerprint ?? "", ...said]),
    { vocabSize: tokenizer.vocabSize, marked: true },
    (rows) => {
      for (const [i, conversation] of conversations.entries()) {
        const { ids, assistant } = encode(tokenizer, template, conversation);
        rows.add(ids, assistant);
        cache.onProgress?.(i + 1, conversations.length);
      }
    },
    known ? cache : { cache: false },
  );
  const encoded = conversations.map(({ file, line }, row) => ({
    ids: Array.from(table.ids(row)),
    assistant: Array.from(table.marks(row), Boolean),
    description: `${file}:${line}`,
  }));
  table.close();
  return encoded;
}

function encode(tokenizer: Tokenizer, template: ChatTemplate, { messages, tools, file, line }: Conversation) {
  try {
    return encodeConversation(tokenizer, template, messages, { tools });
  } catch (cause) {
    if (!(cause instanceof EspalierError)) throw cause;
    throw new EspalierError(cause.code, `${file} line ${line}: ${cause.message}`, { cause });
  }
}

function markerNote(tokenizer: Tokenizer, template: ChatTemplate): string[] {
  const { text } = turnEnd(tokenizer, template);
  if (text === undefined) return [];
  const count = tokenizer.encode(text, { addSpecialTokens: false }).length;
  return [
    `The turns of ${template.where} end with ${JSON.stringify(text)}, which is no token of this tokenizer. Its markers are plain text (this one takes ${count} tokens); no token is added`,
  ];
}

function lossNotes(name: string, { truncation, withoutTarget }: { truncation: Truncation; withoutTarget: number }): string[] {
  const { count, of, longest, limit } = truncation;
  const cut = `${count} of ${of} ${name} conversations are longer than ${limit} tokens (the longest has ${longest}): their ends were cut off; --max-length changes that`;
  const dropped = `${withoutTarget} of ${of} ${name} conversations were left out: the assistant says nothing in what is kept of them`;
  return [...(count > 0 ? [cut] : []), ...(withoutTarget > 0 ? [dropped] : [])];
}
