import { availableParallelism } from "node:os";
import * as ort from "onnxruntime-node";
import { Device, type Platform } from "./device.ts";
import { ModelFiles, readStorage } from "./model-files.ts";

export interface CpuOptions {
  /** Threads of one operator. Default: the machine's cores. */
  threads?: number;
  /** Keep freed memory for the next run: faster, at a higher peak. Default true. */
  arena?: boolean;
  /** Write a trace of every operator's time into a file with this prefix. */
  profile?: string;
}

/** ONNX Runtime on this machine's processor. */
export function cpu(options: CpuOptions = {}): Device {
  const files = new ModelFiles();
  const platform: Platform = {
    ort,
    provider: "cpu",
    load: readStorage,
    async open(traced, encodeWith) {
      const sessionOptions: ort.InferenceSession.SessionOptions = {
        executionProviders: ["cpu"],
        graphOptimizationLevel: "all",
        intraOpNumThreads: options.threads ?? availableParallelism(),
        interOpNumThreads: 1,
        enableCpuMemArena: options.arena ?? true,
        logSeverityLevel: 3,
        ...(options.profile && { enableProfiling: true, profileFilePrefix: options.profile }),
        // Prepacking would copy every mapped weight into memory.
        extra: { session: { disable_prepacking: "1" } },
      };
      return files.open(traced, encodeWith, (path) => ort.InferenceSession.create(path, sessionOptions));
    },
  };
  return new Device(platform);
}
