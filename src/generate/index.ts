/** The room's face: decoding with a key-value cache, sampling, beam search, stopping, streaming. */
export { type BeamResult, type BeamSearchOptions, beamSearch } from "./beam-search.ts";
export { type ChatPrompt, chatPrompt } from "./chat-prompt.ts";
export { ctcBestPath } from "./ctc.ts";
export { type Continuation, Decoder, Decoding, type TextGenerator } from "./decoder.ts";
export { endIdsOf, type GenerateOptions, type Generation, type GenerationResult, generate } from "./generate.ts";
export { type Distribution, distribution, type SamplingOptions, sample } from "./sampling.ts";
export { Seq2SeqDecoder, Seq2SeqDecoding } from "./seq2seq-decoder.ts";
export { StopMatcher } from "./stop-matcher.ts";
export { type TranscribeOptions, Transcriber } from "./transcribe.ts";
