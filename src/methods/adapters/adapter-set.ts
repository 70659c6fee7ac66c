import { type PeftAdapter, readPeftAdapter, writePeftAdapter } from "../../checkpoints/index.ts";
import { EspalierError, nearestNames, type Storage } from "../../graph/index.ts";
import type { Module } from "../../nn/index.ts";
import { type CombineOptions, combineLora } from "./combine-lora.ts";
import type { Graft } from "./graft.ts";
import { readerOf } from "./load-adapter.ts";
import { placeAdapter } from "./peft-format.ts";

/** Places in the model, for all adapters that have the same ones. */
interface Structure {
  key: string;
  graft: Graft;
}

interface Entry {
  adapter: PeftAdapter & { tensors: Map<string, Storage> };
  structure: Structure;
  notes: readonly string[];
}

/**
 * Several adapters on one base model, of which one is active or none.
 *
 * Adapters that have the same places in the model (the same method, targets, ranks and scales) share them, and only their values are exchanged: programs
 * that were compiled for one serve the others, and {@link structure} says which. The base model's weights are there once.
 *
 * ```ts
 * const adapters = new AdapterSet(model);
 * adapters.add("polite", "adapters/polite");
 * adapters.add("terse", "adapters/terse");
 * adapters.combine("both", [{ adapter: "polite", weight: 0.7 }, { adapter: "terse", weight: 0.3 }], { type: "svd", rank: 8 });
 * adapters.switch("both");
 * ```
 */
export class AdapterSet {
  readonly model: Module;
  readonly #entries = new Map<string, Entry>();
  #active: string | undefined;

  constructor(model: Module) {
    this.model = model;
    model.freeze();
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** The adapter with which the model computes now; undefined for the base model by itself. */
  get active(): string | undefined {
    return this.#active;
  }

  /** The same for two active adapters where a program compiled with one computes with the other; empty without an adapter. */
  get structure(): string {
    return this.#active === undefined ? "" : this.#entry(this.#active).structure.key;
  }

  /**
   * Takes an adapter in, without switching to it.
   *
   * @returns what a person should know about the model with this adapter
   * @throws EspalierError `adapter-name`, and as {@link loadAdapter}; the set is as before then
   */
  add(name: string, source: string | PeftAdapter): readonly string[] {
    if (this.#entries.has(name))
      throw new EspalierError("adapter-name", `There is an adapter "${name}" already. Delete it first, or choose another name.`);
    const read = typeof source === "string" ? readPeftAdapter(source) : source;
    const adapter = { config: read.config, tensors: new Map<string, Storage>(read.tensors) };
    const key = structureOf(adapter);
    const known = [...this.#entries.values()].find(({ structure }) => structure.key === key)?.structure;
    if (known) {
      this.#entries.set(name, { adapter, structure: known, notes: known.graft.notes });
      return known.graft.notes;
    }
    const active = this.#active;
    this.switch(undefined);
    try {
      const { graft, notes } = placeAdapter(
        this.model,
        adapter,
        typeof source === "string" ? source : name,
        readerOf(adapter.config.peft_type),
      );
      graft.undo();
      this.#entries.set(name, { adapter, structure: { key, graft }, notes });
      return notes;
    } finally {
      this.switch(active);
    }
  }

  /** Makes an adapter the active one, or none. What the parameters of the one before hold then is kept. */
  switch(name: string | undefined): void {
    const next = name === undefined ? undefined : this.#entry(name);
    const before = this.#active === undefined ? undefined : this.#entry(this.#active);
    if (before) for (const [tensor, parameter] of before.structure.graft.places) before.adapter.tensors.set(tensor, parameter.storage);
    if (before && before.structure !== next?.structure) before.structure.graft.undo();
    this.#active = name;
    if (!next) return;
    const { graft } = next.structure;
    graft.redo();
    for (const [tensor, parameter] of graft.places) {
      const storage = next.adapter.tensors.get(tensor)!;
      if (parameter.storage !== storage) parameter.storage = storage;
    }
  }

  /** Forgets an adapter. The active one is taken off first. */
  delete(name: string): void {
    this.#entry(name);
    if (this.#active === name) this.switch(undefined);
    this.#entries.delete(name);
  }

  /**
   * Adds an adapter made of others, each with a weight; see {@link CombineOptions}.
   *
   * @throws EspalierError `adapter-name`, `unknown-adapter`, `not-combinable`, `bad-option`
   */
  combine(name: string, parts: readonly { adapter: string; weight: number }[], options: CombineOptions): void {
    const found = parts.map(({ adapter, weight }) => ({ name: adapter, adapter: this.#present(adapter), weight }));
    this.add(name, combineLora(found, options));
  }

  /** Writes an adapter as PEFT does. */
  save(name: string, directory: string): void {
    writePeftAdapter(directory, this.#present(name));
  }

  /** With the values that the parameters of the active one hold now. */
  #present(name: string): PeftAdapter {
    const { adapter, structure } = this.#entry(name);
    if (name !== this.#active) return adapter;
    return {
      ...adapter,
      tensors: new Map([...adapter.tensors, ...[...structure.graft.places].map(([key, p]) => [key, p.storage] as const)]),
    };
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    const near = nearestNames(name, this.names, 1);
    throw new EspalierError(
      "unknown-adapter",
      `There is no adapter "${name}"; ${near.length > 0 ? `those there are: ${this.names.join(", ")}` : "none was added"}.`,
    );
  }
}

/** Keys of a configuration that say nothing about where an adapter goes and how it computes. */
const bookkeeping = new Set(["base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping", "task_type"]);

function structureOf({ config, tensors }: PeftAdapter): string {
  const kept = Object.entries(config).filter(([key]) => !bookkeeping.has(key));
  const shapes = Array.from(tensors, ([name, { shape }]) => [name, shape] as const);
  return JSON.stringify([kept.sort(byName), shapes.sort(byName)]);
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : 1);
