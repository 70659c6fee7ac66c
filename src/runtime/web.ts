import * as ort from "onnxruntime-web/wasm";
import { EspalierError, valuesOf } from "../graph/index.ts";
import { Device, type Platform } from "./device.ts";
import { created } from "./program.ts";
import { sessionOptions } from "./session-options.ts";

export interface WasmOptions {
  /** Threads of one operator; more than one needs a page that is cross-origin isolated. Default: ONNX Runtime's choice. */
  threads?: number;
}

/** ONNX Runtime compiled to WebAssembly: runs in every browser, and in Node without native code. Weights are held in memory. */
export function wasm(options: WasmOptions = {}): Device {
  if (options.threads !== undefined) ort.env.wasm.numThreads = options.threads;
  const platform: Platform = {
    ort,
    provider: "wasm",
    load: (storage, dtype) =>
      valuesOf(storage, dtype, ({ file }) => {
        throw new EspalierError("no-files", `The browser cannot read ${file}: load the checkpoint into memory first.`);
      }),
    async open(traced, encodeWith) {
      const model = encodeWith();
      const session = await created(ort.InferenceSession.create(model.bytes, { ...sessionOptions(traced), executionProviders: ["wasm"] }));
      return { session, model };
    },
  };
  return new Device(platform);
}
