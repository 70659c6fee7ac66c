import { z } from "zod";
import { type Example, paddedBatches, paddedRows, paddingMaskRows } from "../../data/index.ts";
import type { BatchRows } from "../../data/padded-batches.ts";
import { readExamples } from "../../data/records.ts";
import { EspalierError, Random } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import { loadMaskedLM } from "../../models/load-encoder.ts";
import type { MaskedLM } from "../../models/text-encoder.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { maskedLanguageModel } from "../objectives/index.ts";
import { defaultLength, type TaskKind } from "./kind.ts";
import { type LoadedText, lengthBuckets, loadText, padIdOf } from "./loaded-text.ts";
import { batchesOf, type Task, type TaskData } from "./task.ts";

const record = z.object({
  task: z.literal("masked-lm"),
  maxLength: z.int().positive(),
  maskShare: z.number().positive().max(1),
  wholeWords: z.boolean(),
});
export type MaskedRecord = z.output<typeof record>;

/** Hidden words of texts. */
export const maskedLM: TaskKind<Example, MaskedRecord, LoadedText<MaskedLM>> = {
  name: "masked-lm",
  summary: "hidden words of texts",
  data: '{"text": "…"}, or a .txt file',
  needs: "maskedLM",
  options: ["textColumn", "maskShare", "wholeWords"],
  record,
  recognises: () => true,
  read: readExamples,
  cutsTexts: true,
  plan: ({ options: { maxLength = defaultLength, maskShare = 0.15, wholeWords = false } }) => ({
    task: "masked-lm",
    maxLength,
    maskShare,
    wholeWords,
  }),
  load: (directory) => loadText(directory, loadMaskedLM),
  task: ({ model, tokenizer }, data, record, device) => maskedTask(model, tokenizer, device, { ...data, ...record }),
  withLength: (record, maxLength) => ({ ...record, maxLength }),
};

export interface MaskedTaskOptions extends TaskData {
  /** Tokens of a piece of text. */
  maxLength: number;
  /** The share of the tokens that is to be guessed. */
  maskShare: number;
  /** Whether all parts of a word are hidden together. */
  wholeWords: boolean;
}

interface Piece {
  ids: readonly number[];
  length: number;
  /** The places that may be hidden, those of a word together. */
  units: readonly (readonly number[])[];
  description: string;
}

/**
 * Tokens are hidden anew in every step, as a function of the seed, the step and the row (Liu et al., "RoBERTa"): of those to be guessed 80 % become the
 * mask, 10 % some other token and 10 % stay (Devlin et al., "BERT"). Held-out texts are hidden in the same places at every evaluation; quality is
 * stated as the perplexity of what is hidden there. Long texts are cut into pieces, of which none is lost.
 */
export function maskedTask(model: MaskedLM, tokenizer: Tokenizer, device: Device, options: MaskedTaskOptions): Task {
  const { train, heldOut, batchSize, seed, maxLength, maskShare, wholeWords } = options;
  const maskId = ["[MASK]", "<mask>"].map((token) => tokenizer.tokenId(token)).find((id) => id !== undefined);
  if (maskId === undefined)
    throw new EspalierError(
      "no-mask-token",
      "The tokenizer has neither [MASK] nor <mask>, and what is to be guessed must be hidden by a token. Take the tokenizer of the model.",
    );
  const vocabulary = Math.min(tokenizer.vocabSize, model.config.vocab_size);
  const [trainSet, heldSet] = [pieces(train, tokenizer, options), pieces(heldOut, tokenizer, options)];
  for (const [name, examples, set] of [
    ["training", train, trainSet],
    ["held-out", heldOut, heldSet],
  ] as const)
    if (examples.length > 0 && set.length === 0)
      throw new EspalierError("no-held-out", `The ${name} data hold no text: nothing of them is left for the tokenizer to encode.`);

  const batches = (set: readonly Piece[], randomOf: (step: number, index: number) => Random, shuffle: boolean) => {
    const feeds = ({ examples, indices, batchSize, length, step }: BatchRows<Piece>) => {
      const hidden = examples.map((piece, row) => hide(piece, randomOf(step, indices[row]!), { maskShare, maskId, vocabulary }));
      return {
        ids: paddedRows(
          hidden.map(({ ids }) => ids),
          batchSize,
          length,
          padIdOf(tokenizer),
        ),
        attentionMask: paddingMaskRows(
          examples.map((piece) => piece.length),
          batchSize,
          length,
        ),
        targets: paddedRows(
          hidden.map(({ targets }) => targets),
          batchSize,
          length,
          -100,
        ),
      };
    };
    return paddedBatches(set, { batchSize, buckets: lengthBuckets(maxLength), seed, shuffle }, feeds);
  };
  const heldSource = heldSet.length > 0 ? batches(heldSet, (_, index) => new Random(index), false) : undefined;
  const objective = maskedLanguageModel(model);
  const evaluator = new Evaluator(device, objective);
  const tokens = (set: readonly Piece[]) => set.reduce((n, { units }) => n + units.flat().length, 0);
  return {
    name: "masked-lm",
    model,
    objective,
    train: batchesOf(trainSet, (set) => batches(set, (step, index) => new Random(seed, step, index), true)),
    notes: [
      `${tokens(trainSet)} training and ${tokens(heldSet)} held-out tokens in ${trainSet.length} and ${heldSet.length} pieces of at most ${maxLength}; ${(100 * maskShare).toFixed(0)} % of ${wholeWords ? "the words" : "them"} are to be guessed`,
    ],
    metric: "perplexity",
    higherIsBetter: false,
    length: maxLength,
    record: { task: "masked-lm", maxLength, maskShare, wholeWords } satisfies MaskedRecord,
    async evaluate(onProgress) {
      const { loss } = await evaluator.run(heldSource!, undefined, onProgress);
      await evaluator.dispose(); // see rowsOfLogits
      return { loss, perplexity: Math.exp(loss) };
    },
    dispose: () => evaluator.dispose(),
  };
}

function pieces(examples: readonly Example[], tokenizer: Tokenizer, { maxLength, wholeWords }: MaskedTaskOptions): Piece[] {
  const { prefix, suffix } = tokenizer.surroundings;
  const room = maxLength - prefix.length - suffix.length;
  if (room < 1) throw new EspalierError("bad-option", `A length of ${maxLength} tokens leaves no room for text.`);
  return examples.flatMap(({ text, file, line }) => {
    const all = tokenizer.encode(text, { addSpecialTokens: false });
    return Array.from({ length: Math.ceil(all.length / room) }, (_, part): Piece => {
      const own = all.slice(part * room, (part + 1) * room);
      const ids = [...prefix, ...own, ...suffix];
      return { ids, length: ids.length, units: unitsOf(own, prefix.length, tokenizer, wholeWords), description: `${file}:${line}` };
    });
  });
}

/** The places that are hidden together; special tokens never are. */
function unitsOf(ids: readonly number[], offset: number, tokenizer: Tokenizer, wholeWords: boolean): number[][] {
  const units: number[][] = [];
  for (const [i, id] of ids.entries()) {
    if (tokenizer.isSpecial(id)) continue;
    const open = units.at(-1);
    if (wholeWords && open?.at(-1) === offset + i - 1 && continuesWord(tokenizer.token(id) ?? "", tokenizer)) open.push(offset + i);
    else units.push([offset + i]);
  }
  return units;
}

/** WordPiece marks what continues a word; the others mark what begins one. */
const continuesWord = (token: string, tokenizer: Tokenizer): boolean =>
  tokenizer.tokenId("##s") !== undefined ? token.startsWith("##") : !/^[Ġ▁]/u.test(token);

function hide(
  { ids, units }: Piece,
  random: Random,
  { maskShare, maskId, vocabulary }: { maskShare: number; maskId: number; vocabulary: number },
): { ids: number[]; targets: number[] } {
  const chosen = units.filter(() => random.uniform() < maskShare);
  // A piece of which nothing is hidden teaches nothing.
  if (chosen.length === 0 && units.length > 0) chosen.push(units[random.integer(units.length)]!);
  const [hidden, targets] = [[...ids], ids.map(() => -100)];
  for (const at of chosen.flat()) {
    targets[at] = ids[at]!;
    const draw = random.uniform();
    if (draw < 0.8) hidden[at] = maskId;
    else if (draw < 0.9) hidden[at] = random.integer(vocabulary);
  }
  return { ids: hidden, targets };
}
