/** The face for sounds in Node. In a browser import `audio-processor.ts`, `sound.ts` and `wav.ts`. */
export { audioProcessorFromDirectory, readWavFile } from "./audio-files.ts";
export { type AudioProcessor, audioProcessor } from "./audio-processor.ts";
export { type LogMelOptions, logMelSpectrogram } from "./log-mel.ts";
export { resample, type Sound } from "./sound.ts";
export { readWav } from "./wav.ts";
