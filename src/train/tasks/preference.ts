import { z } from "zod";
import { type EncodedPreference, type Preference, preferenceBatches } from "../../data/index.ts";
import { isPreference, readPreferences } from "../../data/preferences.ts";
import { EspalierError } from "../../graph/index.ts";
import { type ChatTemplate, encodeConversation, type Tokenizer } from "../../inputs/index.ts";
import { chatTemplateFromDirectory } from "../../inputs/text/chat-template-directory.ts";
import type { CausalLM } from "../../models/causal-lm.ts";
import { loadCausalLM } from "../../models/load.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { type DirectPreferenceOptions, directPreference } from "../objectives/index.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { ReferenceCache } from "./reference-cache.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("preference"),
  maxLength: z.int().positive(),
  chatFormat: z.string().optional(),
  loss: z.enum(["sigmoid", "hinge", "ipo"]),
  beta: z.number().positive(),
  labelSmoothing: z.number().min(0).lt(0.5),
});
export type PreferenceRecord = z.output<typeof record>;

/** The better one of two answers. */
export const preference: TaskKind<Preference, PreferenceRecord, LoadedText<CausalLM> & { template: ChatTemplate | undefined }> = {
  name: "preference",
  summary: "which of two answers is the better one (DPO)",
  data: '{"prompt": "…", "chosen": "…", "rejected": "…"}',
  needs: "causalLM",
  options: ["chatFormat", "preferenceLoss", "beta", "labelSmoothing"],
  record,
  recognises: ({ record }) => record !== undefined && isPreference(record),
  read: (path) => readPreferences(path),
  plan({ directory, train, heldOut, options }) {
    const { maxLength = defaultLength, chatFormat, preferenceLoss = "sigmoid", beta = 0.1, labelSmoothing = 0 } = options;
    const told = [...train, ...heldOut].some(({ prompt }) => typeof prompt !== "string");
    const format = told || chatFormat !== undefined ? chatTemplateFromDirectory(directory, { format: chatFormat }).format : undefined;
    const settings = { loss: preferenceLoss, beta, labelSmoothing };
    return { task: "preference", maxLength, ...settings, ...(format !== undefined && { chatFormat: format }) };
  },
  async load(directory, { chatFormat }) {
    const loaded = await loadText(directory, loadCausalLM);
    return { ...loaded, template: templateOf(directory, chatFormat) };
  },
  task: ({ model, tokenizer, template }, data, record, device) =>
    preferenceTask(model, tokenizer, template, device, { ...data, ...record }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
};

/** Preferences between texts need no template. */
function templateOf(directory: string, format: string | undefined): ChatTemplate | undefined {
  if (format !== undefined) return chatTemplateFromDirectory(directory, { format });
  try {
    return chatTemplateFromDirectory(directory, {});
  } catch (error) {
    if (error instanceof EspalierError) return undefined;
    throw error;
  }
}

export interface PreferenceTaskOptions extends TaskData<Preference>, DirectPreferenceOptions {
  /** Tokens of prompt and answer together. */
  maxLength: number;
}

/**
 * Learns to prefer the chosen answers, against the model without its adapters; quality is stated as the share of held-out pairs whose chosen answer has the
 * greater reward. An untrained model rewards both with 0, which counts as half.
 *
 * The reference's log-probabilities are computed when a pair is first seen, by a program of their own, and remembered.
 *
 * @throws EspalierError `no-chat-template` for messages without a template; `no-targets`
 */
export function preferenceTask(
  model: CausalLM,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  device: Device,
  options: PreferenceTaskOptions,
): Task {
  const { batchSize, maxLength, seed, loss = "sigmoid", beta = 0.1, labelSmoothing = 0 } = options;
  const prepare = (name: string, preferences: readonly Preference[]) => {
    const encoded = preferences.map((preference) => encode(tokenizer, template, preference, maxLength));
    const kept = encoded.filter(({ chosen, rejected }) => [chosen, rejected].every(({ targets }) => targets.some((id) => id !== -100)));
    if (kept.length === 0 && encoded.length > 0)
      throw new EspalierError(
        "no-targets",
        `In none of the ${encoded.length} ${name} pairs do both answers begin within ${maxLength} tokens. Raise --max-length or shorten the prompts.`,
      );
    const cut = kept.filter(({ cut }) => cut).length;
    return { name, kept, cut, of: encoded.length };
  };
  const [trainSet, heldSet] = [prepare("training", options.train), prepare("held-out", options.heldOut)];
  const notesOf = ({ name, kept, cut, of }: typeof trainSet) => [
    ...(cut > 0
      ? [
          `of ${cut} of ${of} ${name} pairs an answer is longer than ${maxLength} tokens with its prompt: its end was cut off; --max-length changes that`,
        ]
      : []),
    ...(kept.length < of
      ? [`${of - kept.length} of ${of} ${name} pairs were left out: an answer begins behind the first ${maxLength} tokens`]
      : []),
  ];
  const common = { batchSize, padId: padIdOf(tokenizer), buckets: lengthBuckets(maxLength), seed };
  const objective = directPreference(model, { loss, beta, labelSmoothing });
  const evaluator = new Evaluator(device, objective);
  const cache = new ReferenceCache(model, device);
  const held = heldSet.kept.length > 0 ? preferenceBatches(heldSet.kept, { ...common, shuffle: false }) : undefined;
  const heldSource = held && cache.feeding(held, batchSize);
  return {
    name: "preference",
    model,
    objective,
    train: batchesOf(trainSet.kept, (pairs) => cache.feeding(preferenceBatches(pairs, common), batchSize)),
    notes: [
      `${trainSet.kept.length} training and ${heldSet.kept.length} held-out pairs of answers`,
      ...notesOf(trainSet),
      ...notesOf(heldSet),
    ],
    heldOutNotes: notesOf(heldSet),
    metric: "rewardAccuracy",
    higherIsBetter: true,
    length: maxLength,
    record: {
      task: "preference",
      maxLength,
      loss,
      beta,
      labelSmoothing,
      ...(template?.format !== undefined && { chatFormat: template.format }),
    } satisfies PreferenceRecord,
    async evaluate(onProgress) {
      const sums = { right: 0, chosen: 0, rejected: 0 };
      const { loss } = await evaluator.run(
        heldSource!,
        (step, { chosen, rejected }) => {
          for (let row = 0; row < held!.indices(step).length; row++) {
            const [good, bad] = [chosen!.data[row] as number, rejected!.data[row] as number];
            sums.right += good > bad ? 1 : good === bad ? 0.5 : 0;
            sums.chosen += good;
            sums.rejected += bad;
          }
        },
        onProgress,
      );
      await evaluator.dispose(); // see rowsOfLogits
      const [rewardAccuracy, chosenReward, rejectedReward] = [sums.right, sums.chosen, sums.rejected].map(
        (sum) => sum / heldSet.kept.length,
      );
      return {
        loss,
        rewardAccuracy: rewardAccuracy!,
        rewardMargin: chosenReward! - rejectedReward!,
        chosenReward: chosenReward!,
        rejectedReward: rejectedReward!,
      };
    },
    async dispose() {
      await evaluator.dispose();
      await cache.dispose();
    },
  };
}

type Answer = { ids: number[]; answer: boolean[] };

function encode(
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  { prompt, chosen, rejected, file, line }: Preference,
  limit: number,
): EncodedPreference & { cut: boolean } {
  const description = `${file}:${line}`;
  const answerTo = (said: Preference["chosen"]): Answer => {
    if (typeof prompt === "string" && typeof said === "string") return ofTexts(tokenizer, prompt, said);
    if (!template)
      throw new EspalierError(
        "no-chat-template",
        `${file} line ${line}: holds messages, and the model has no chat template. Name one with --chat-format, or give texts.`,
      );
    try {
      return ofMessages(tokenizer, template, [...prompt, ...said] as Exclude<Preference["chosen"], string>);
    } catch (cause) {
      if (!(cause instanceof EspalierError)) throw cause;
      throw new EspalierError(cause.code, `${file} line ${line}: ${cause.message}`, { cause });
    }
  };
  const [good, bad] = [answerTo(chosen), answerTo(rejected)];
  return {
    chosen: learnt(good, limit),
    rejected: learnt(bad, limit),
    description,
    cut: [good, bad].some(({ ids }) => ids.length - 1 > limit),
  };
}

/** Prompt and answer are encoded apart, so that both answers see the same prompt. */
function ofTexts(tokenizer: Tokenizer, prompt: string, said: string): Answer {
  const plain = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const before = [...(tokenizer.bosId === undefined ? [] : [tokenizer.bosId]), ...plain(prompt)];
  const answer = [...plain(said), ...(tokenizer.eosId === undefined ? [] : [tokenizer.eosId])];
  return { ids: [...before, ...answer], answer: [...before.map(() => false), ...answer.map(() => true)] };
}

/** Of the assistant's turns, the last one. */
function ofMessages(tokenizer: Tokenizer, template: ChatTemplate, messages: Exclude<Preference["chosen"], string>): Answer {
  const { ids, assistant } = encodeConversation(tokenizer, template, messages);
  const end = assistant.lastIndexOf(true);
  const begin = assistant.lastIndexOf(false, end) + 1;
  return { ids, answer: ids.map((_, i) => i >= begin && i <= end) };
}

/** What is read and what is to be said next, of the first `limit` ids. */
function learnt({ ids, answer }: Answer, limit: number): EncodedPreference["chosen"] {
  const length = Math.min(ids.length - 1, limit);
  return { ids: ids.slice(0, length), targets: Array.from({ length }, (_, t) => (answer[t + 1] ? ids[t + 1]! : -100)) };
}
