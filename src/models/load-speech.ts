/** A Hugging Face directory → a model of speech with its weights. */
import type { CtcModel, SpeechModel } from "./ctc-model.ts";
import type { WhisperForConditionalGeneration } from "./families/whisper.ts";
import { fill, modulesOf, openFamily } from "./family-checkpoint.ts";

/**
 * Loads an encoder of waveforms; heads that the checkpoint may have are left out. Nothing is frozen.
 *
 * @throws EspalierError `checkpoint-missing`, `unsupported-model`, `unsupported-task`, `bad-config`, `checkpoint-mismatch`, `checkpoint-dtype`
 */
export function loadSpeechModel(directory: string): SpeechModel {
  const opened = openFamily(directory, "speechModel");
  const model = opened.build(opened.config);
  fill(model, opened, { otherHeads: true });
  return model;
}

/**
 * Loads a recogniser that spells frame by frame. A directory of an encoder will do: the head is then freshly initialised.
 *
 * @param options `vocabulary`: the rows of a new head; default as config.json says
 * @throws EspalierError as {@link loadSpeechModel}
 */
export function loadCtcModel(directory: string, options: { seed?: number; vocabulary?: number } = {}): CtcModel {
  const opened = openFamily(directory, "ctcModel");
  const headIsFresh = !opened.checkpoint.tensors.has("lm_head.weight");
  const { vocabulary } = options;
  const config = headIsFresh && vocabulary !== undefined ? { ...(opened.config as object), vocab_size: vocabulary } : opened.config;
  const model = opened.build(config, options.seed);
  model.headIsFresh = headIsFresh;
  model.freshModules = modulesOf(fill(model, opened, { otherHeads: model.headIsFresh }));
  return model;
}

/**
 * Loads a recogniser that writes what it hears. Nothing is frozen.
 *
 * @throws EspalierError as {@link loadSpeechModel}
 */
export function loadSpeechSeq2Seq(directory: string): WhisperForConditionalGeneration {
  const opened = openFamily(directory, "speechSeq2Seq");
  const model = opened.build(opened.config);
  fill(model, opened, {});
  return model;
}
