import { EspalierError, nearestNames, type Storage } from "../../graph/index.ts";
import { CausalLM } from "../../models/causal-lm.ts";
import type { Layer, Module, Parameter } from "../../nn/index.ts";

/** One change of a model, with the way back. Both may be gone several times. */
interface Edit {
  apply(): void;
  revert(): void;
}

/** What an adapter has changed in a model: it can be taken off, with the base as it was before bit for bit, and put on again. */
export class Graft {
  readonly model: Module;
  /** What the adapter's file holds, by its name there. */
  readonly places = new Map<string, Parameter>();
  /** What a person should know about the model now. */
  readonly notes: string[] = [];
  readonly #edits: Edit[] = [];
  #on = true;

  constructor(model: Module) {
    this.model = model;
  }

  /** Whether the model carries the adapter now. */
  get on(): boolean {
    return this.#on;
  }

  /** The parameters that the adapter trains. */
  get parameters(): Parameter[] {
    return [...new Set(this.places.values())].filter((parameter) => !parameter.frozen);
  }

  /** Puts a module in the place of the one at `path`. */
  replace(path: string, replacement: Module): void {
    const original = this.model.module(path);
    this.#add({ apply: () => this.model.replace(path, replacement), revert: () => this.model.replace(path, original) });
    this.model.assignNames();
  }

  /** Takes a parameter of the model into the adapter, to be trained or only to have values of its own. */
  claim(name: string, parameter: Parameter, options: { trained: boolean }): void {
    const base = { storage: parameter.storage, frozen: parameter.frozen };
    let own: Storage = parameter.storage;
    this.places.set(name, parameter);
    this.#add({
      apply() {
        parameter.frozen = !options.trained;
        if (parameter.storage !== own) parameter.storage = own;
      },
      revert() {
        own = parameter.storage;
        parameter.frozen = base.frozen;
        if (own !== base.storage) parameter.storage = base.storage;
      },
    });
  }

  /** Unties the head of a language model from its embedding, and says so. */
  untie(why: string): void {
    const { model } = this;
    if (!(model instanceof CausalLM) || model.head) return;
    let tie: () => void;
    let head: Layer | undefined;
    this.#add({
      apply() {
        tie = model.untieHead(head);
        head = model.head;
      },
      revert: () => tie(),
    });
    this.notes.push(`The output head is untied from the embedding, because ${why}.`);
  }

  /** Takes the adapter off. */
  undo(): void {
    if (!this.#on) return;
    for (const edit of this.#edits.toReversed()) edit.revert();
    this.model.assignNames();
    this.#on = false;
  }

  /** Puts the adapter on again. */
  redo(): void {
    if (this.#on) return;
    for (const edit of this.#edits) edit.apply();
    this.model.assignNames();
    this.#on = true;
  }

  /**
   * Gives every place its tensor.
   *
   * @throws EspalierError `adapter-tensors` where a tensor has no place, a place no tensor, or the shapes differ; nothing is changed then
   */
  fill(source: string, tensors: ReadonlyMap<string, Storage>): void {
    const { places } = this;
    const unmatched = [...tensors.keys()].filter((name) => !places.has(name));
    const missing = [...places.keys()].filter((name) => !tensors.has(name));
    const misshapen = [...places].filter(([name, { shape }]) => tensors.has(name) && `${tensors.get(name)!.shape}` !== `${shape}`);
    const parts = [
      unmatched.length > 0 && `${unmatched.length} tensors of the adapter match nothing in the model: ${this.#listWithNearest(unmatched)}`,
      missing.length > 0 && `the adapter lacks ${list(missing)}`,
      misshapen.length > 0 &&
        `the shapes differ: ${list(misshapen.map(([name, { shape }]) => `${name} is [${tensors.get(name)!.shape}] and would have to be [${shape}]`))}`,
    ].filter(Boolean);
    if (parts.length > 0)
      throw new EspalierError("adapter-tensors", `${source}: the adapter does not fit this model: ${parts.join("; ")}.`);
    for (const [name, parameter] of places) parameter.storage = tensors.get(name)!;
  }

  #listWithNearest(names: string[]): string {
    const candidates = [...this.places.keys(), ...Array.from(this.model.namedParameters(), ([name]) => name)];
    const nearest = nearestNames(names[0]!, candidates, 1);
    return `${list(names)} (nearest: ${nearest.join()})`;
  }

  #add(edit: Edit): void {
    edit.apply();
    this.#edits.push(edit);
  }
}

const list = (names: string[]): string => `${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
