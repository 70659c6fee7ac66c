import { type Example, languageBatches } from "../../data/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Tokenizer } from "../../inputs/index.ts";
import type { CausalLM } from "../../models/causal-lm.ts";
import type { Device } from "../../runtime/index.ts";
import { Evaluator } from "../evaluate.ts";
import { causalLanguageModel } from "../objectives/index.ts";
import type { Task } from "./task.ts";

export interface LanguageTaskOptions {
  train: readonly Example[];
  heldOut: readonly Example[];
  batchSize: number;
  sequenceLength: number;
  seed: number;
}

/** Token ids of all texts, an end-of-text token after each. */
function tokens(examples: readonly Example[], tokenizer: Tokenizer): Int32Array {
  const end = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
  return Int32Array.from(examples.flatMap(({ text }) => [...tokenizer.encode(text, { addSpecialTokens: false }), ...end]));
}

/** Next-token prediction on texts; quality is stated in bits per byte of held-out text, which does not depend on the tokenizer. */
export function languageModelingTask(model: CausalLM, tokenizer: Tokenizer, device: Device, options: LanguageTaskOptions): Task {
  const { batchSize, sequenceLength, seed } = options;
  const [trainTokens, heldTokens] = [tokens(options.train, tokenizer), tokens(options.heldOut, tokenizer)];
  if (heldTokens.length < 2)
    throw new EspalierError(
      "no-held-out",
      "The held-out part of the data holds no text to evaluate on. Give more data, a larger --held-out, or --eval-data.",
    );
  const bytes = options.heldOut.reduce((n, { text }) => n + new TextEncoder().encode(text).length, 0);
  const objective = causalLanguageModel(model);
  const evaluator = new Evaluator(device, objective);
  const heldSource = languageBatches(heldTokens, { batchSize, sequenceLength, shuffle: false });
  return {
    name: "language-modeling",
    model,
    objective,
    train: languageBatches(trainTokens, { batchSize, sequenceLength, seed }),
    notes: [
      `${trainTokens.length} training and ${heldTokens.length} held-out tokens (${bytes} bytes of held-out text), in windows of ${sequenceLength} tokens`,
    ],
    metric: "bitsPerByte",
    record: { task: "language-modeling", sequenceLength },
    async evaluate(onProgress) {
      const { loss, weight } = await evaluator.run(heldSource, undefined, onProgress);
      await evaluator.dispose(); // see Classifier.logits
      return { loss, bitsPerByte: (loss * weight) / Math.LN2 / bytes };
    },
    dispose: () => evaluator.dispose(),
  };
}
