import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { EspalierError, type Variable } from "../graph/index.ts";
import type { EncodedModel } from "../onnx/index.ts";
import { type ComputeDtype, needsPackedWeights } from "../ops/index.ts";
import { Device, type Platform, type Profiling } from "./device.ts";
import { ModelFiles } from "./model-files.ts";
import { makeScratch, removeScratch } from "./scratch.ts";
import { sessionOptions } from "./session-options.ts";
import { readStorage } from "./stored-values.ts";

export interface CpuOptions {
  /** Threads of one operator. Default: the machine's cores. */
  threads?: number;
  /** What training computes matrix products in. The processor has no products in 16 bits, graphics processors none in int8. Default "float32". */
  compute?: ComputeDtype;
}

export interface GpuOptions extends CpuOptions {
  /**
   * Whether weights and moments stay in the graphics processor's memory from step to step; `Device.toHost` brings them back. WebGPU can, ONNX Runtime's
   * CUDA provider cannot from Node. Default false: they pass through the host.
   */
  keepsState?: boolean;
}

// What goes wrong is thrown: ONNX Runtime need not print it too.
ort.env.logLevel = "fatal";

/** Names of the execution providers that this ONNX Runtime knows, installed or not. */
export const knownProviders = (): string[] => ort.listSupportedBackends().map(({ name }) => name);

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
  const keepsState = provider === "webgpu" && (options.keepsState ?? false);
  const platform: Platform = {
    ort,
    provider,
    compute: options.compute ?? "float32",
    keepsState,
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
      let model: EncodedModel | undefined;
      const encoding: typeof encodeWith = (external) => {
        model = encodeWith(external);
        return model;
      };
      return files.open(traced, encoding, (path) =>
        ort.InferenceSession.create(path, { ...all, ...(keepsState && { preferredOutputLocation: locations(model!) }) }),
      );
    },
    dispose: () => files.dispose(),
  };
  return new Device(platform);
}

/** Where the results of a session lie that keeps what variables become: on the device, for kernels that write there. */
function locations({ outputs, updates }: EncodedModel): Record<string, "cpu" | "gpu-buffer"> {
  const kept = ([name, { dtype }]: readonly [string, Variable]) => [name, dtype === "float32" ? "gpu-buffer" : "cpu"] as const;
  return Object.fromEntries([...Array.from(outputs.keys(), (name) => [name, "cpu"] as const), ...Array.from(updates, kept)]);
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
