import { availableParallelism } from "node:os";
import * as ort from "onnxruntime-node";
import { needsPackedWeights } from "../ops/index.ts";
import { Device, type Platform } from "./device.ts";
import { ModelFiles } from "./model-files.ts";
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
      const sessionOptions: ort.InferenceSession.SessionOptions = {
        executionProviders,
        graphOptimizationLevel: "all",
        intraOpNumThreads: options.threads ?? availableParallelism(),
        interOpNumThreads: 1,
        // What goes wrong is thrown: ONNX Runtime need not print it too.
        logSeverityLevel: 4,
        ...(options.profile && { enableProfiling: true, profileFilePrefix: options.profile }),
        extra: {
          // Prepacking would copy every mapped weight into memory.
          session: { disable_prepacking: needsPackedWeights(traced) ? "0" : "1" },
          // Folding would keep what is computed from a frozen weight, such as the float copy of a quantised one; small tables may be kept.
          optimization: { constant_folding_max_output_size_in_bytes: "65536" },
        },
      };
      return files.open(traced, encodeWith, (path) => ort.InferenceSession.create(path, sessionOptions));
    },
    dispose: () => files.dispose(),
  };
  return new Device(platform);
}
