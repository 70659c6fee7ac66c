/** The face of the room: text to tensors' integers and back. Safe in a browser; reading directories is in `text/tokenizer-directory.ts`. */
export { TextStream, type TextStreamSource } from "./text/text-stream.ts";
export { type DecodeOptions, type EncodeOptions, Tokenizer } from "./text/tokenizer.ts";
export { type TokenizerJson, type TrainBpeOptions, trainByteLevelBpe } from "./text/train-bpe.ts";
