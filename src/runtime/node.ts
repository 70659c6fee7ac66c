import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { EspalierError } from "../graph/index.ts";
import { type ComputeDtype, needsPackedWeights } from "../ops/index.ts";
import { Device, type Platform, type Profiling } from "./device.ts";
import { ModelFiles } from "./model-files.ts";
import { makeScratch, removeScratch } from "./scratch.ts";
import { sessionOptions } from "./session-options.ts";
import { readStorage } from "./stored-values.ts";

export interface CpuOptions {
  /** Threads of one operator. Default: the machine's cores. */
  threads?: number;
}

export interface GpuOptions extends CpuOptions {
  /** What training computes matrix products in. Default "float32". */
  compute?: ComputeDtype;
}

// What goes wrong is thrown: ONNX Runtime need not print it too.
ort.env.logLevel = "fatal";

/** ONNX Runtime on this machine's processor. */
export const cpu = (options: CpuOptions = {}): Device => nativeDevice("cpu", ["cpu"], options);

/**
 * ONNX Runtime on this machine's graphics processor, through WebGPU (Vulkan, Metal or Direct3D 12). Operators that the provider lacks run on
 * the processor.
 */
export const webgpu = (options: GpuOptions = {}): Device => nativeDevice("webgpu", ["webgpu", "cpu"], options);

/**
 * ONNX Runtime on an NVIDIA graphics processor. It runs standard operators, which all have kernels there. `openDevice` says what is missing on a machine
 * where this cannot be used.
 */
export const cuda = (options: GpuOptions = {}): Device => nativeDevice("onnx", ["cuda", "cpu"], options);

function nativeDevice(provider: "cpu" | "webgpu" | "onnx", executionProviders: string[], options: GpuOptions): Device {
  const files = new ModelFiles();
  const platform: Platform = {
    ort,
    provider,
    compute: options.compute ?? "float32",
    load: readStorage,
    copiesOutputs: provider === "cpu",
    profiling,
    open(traced, encodeWith, profiling) {
      const common = sessionOptions(traced);
      const all: ort.InferenceSession.SessionOptions = {
        ...common,
        executionProviders,
        intraOpNumThreads: options.threads ?? availableParallelism(),
        interOpNumThreads: 1,
        ...(profiling && { enableProfiling: true, profileFilePrefix: profiling.prefix }),
        // Prepacking would copy every mapped weight into memory.
        extra: { ...common.extra, session: { disable_prepacking: needsPackedWeights(traced) ? "0" : "1" } },
      };
      return files.open(traced, encodeWith, (path) => ort.InferenceSession.create(path, all));
    },
    dispose: () => files.dispose(),
  };
  return new Device(platform);
}

/** ONNX Runtime adds the time to the name of its file: the file has a directory to itself. */
function profiling(): Profiling {
  const directory = makeScratch(tmpdir());
  if (!directory) throw new EspalierError("no-profile", `A profile needs room for a file, and ${tmpdir()} cannot be written to.`);
  return {
    prefix: join(directory, "profile"),
    read() {
      try {
        return readdirSync(directory)
          .map((name) => readFileSync(join(directory, name), "utf8"))
          .join("");
      } finally {
        removeScratch(directory);
      }
    },
  };
}
