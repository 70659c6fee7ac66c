/** The room's face: decoding with a key-value cache, sampling, stopping, streaming. */
export { type ChatPrompt, chatPrompt } from "./chat-prompt.ts";
export { ctcBestPath } from "./ctc.ts";
export { Decoder, Decoding } from "./decoder.ts";
export { type GenerateOptions, type Generation, type GenerationResult, generate } from "./generate.ts";
export { type Distribution, distribution, type SamplingOptions, sample } from "./sampling.ts";
export { StopMatcher } from "./stop-matcher.ts";
