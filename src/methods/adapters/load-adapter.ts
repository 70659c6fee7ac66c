import { type PeftType, readPeftAdapter } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import type { Module } from "../../nn/index.ts";
import { trainingMethods } from "../catalogue.ts";
import type { MethodFactory } from "../define.ts";
import { type LoadAdapterOptions, type LoadedAdapter, placeAdapter } from "./peft-format.ts";

/**
 * Puts an adapter that PEFT or Espalier saved onto a model, whatever its kind. The model's own parameters are frozen, and those of the adapter can be
 * trained further. Every tensor of the adapter must find its place, and every place its tensor.
 *
 * @throws EspalierError `checkpoint-missing`, `adapter-config`, `adapter-tensors` naming what does not fit, `already-adapted`, `embedding-size`
 */
export function loadAdapter(model: Module, directory: string, options: LoadAdapterOptions = {}): LoadedAdapter {
  const adapter = readPeftAdapter(directory);
  return placeAdapter(model, adapter, directory, readerOf(adapter.config.peft_type), options);
}

/** The method of the catalogue that reads a kind of adapter. */
// biome-ignore lint/suspicious/noExplicitAny: whatever the method's options are.
export function readerOf(type: PeftType): MethodFactory<any> {
  const method = trainingMethods.find(({ peft }) => peft?.type === type);
  if (!method) throw new EspalierError("adapter-config", `No method of the catalogue reads adapters of the kind ${type}.`);
  return method;
}
