import { availableParallelism } from "node:os";
import * as ort from "onnxruntime-node";
import { needsPackedWeights } from "../ops/index.ts";
import { Device, type Platform } from "./device.ts";
import { ModelFiles } from "./model-files.ts";
import { sessionOptions } from "./session-options.ts";
import { readStorage } from "./stored-values.ts";

export interface CpuOptions {
  /** Threads of one operator. Default: the machine's cores. */
  threads?: number;
  /** Write a trace of every operator's time into a file with this prefix. */
  profile?: string;
}

/** ONNX Runtime on this machine's processor. */
export const cpu = (options: CpuOptions = {}): Device => nativeDevice("cpu", ["cpu"], options);

/**
 * ONNX Runtime on this machine's graphics processor, through WebGPU (Vulkan, Metal or Direct3D 12). Operators that the provider lacks run on
 * the processor.
 */
export const webgpu = (options: CpuOptions = {}): Device => nativeDevice("webgpu", ["webgpu", "cpu"], options);

function nativeDevice(provider: "cpu" | "webgpu", executionProviders: string[], options: CpuOptions): Device {
  const files = new ModelFiles();
  const platform: Platform = {
    ort,
    provider,
    load: readStorage,
    copiesOutputs: provider === "cpu",
    open(traced, encodeWith) {
      const common = sessionOptions(traced);
      const all: ort.InferenceSession.SessionOptions = {
        ...common,
        executionProviders,
        intraOpNumThreads: options.threads ?? availableParallelism(),
        interOpNumThreads: 1,
        ...(options.profile && { enableProfiling: true, profileFilePrefix: options.profile }),
        // Prepacking would copy every mapped weight into memory.
        extra: { ...common.extra, session: { disable_prepacking: needsPackedWeights(traced) ? "0" : "1" } },
      };
      return files.open(traced, encodeWith, (path) => ort.InferenceSession.create(path, all));
    },
    dispose: () => files.dispose(),
  };
  return new Device(platform);
}
