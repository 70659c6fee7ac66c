import { EspalierError } from "../graph/index.ts";
import type { CausalLM, LanguageModelConfig } from "../models/causal-lm.ts";
import { type Device, type HostTensor, hostTensor, type Program } from "../runtime/index.ts";
import { KeyValueCache } from "./cache.ts";
import { pastNames, tracePrefill, traceStep } from "./programs.ts";

/**
 * A model compiled for decoding: one program reads prompts, one adds a token. Both serve every length and batch. Frozen parameters are
 * constants of both; trainable ones are read from the device at every run, so a decoder made before training speaks as the model does now.
 */
export class Decoder implements TextGenerator {
  readonly model: CausalLM;
  /** Tokens of prompt and answer together that the model can see. */
  readonly context: number;
  readonly #prefill: Program;
  readonly #step: Program;
  readonly #cache: { names: readonly string[]; kvHeads: number; width: number };

  private constructor(
    model: CausalLM,
    prefill: Program,
    step: Program,
    cache: { names: readonly string[]; kvHeads: number; width: number },
  ) {
    this.model = model;
    this.context = model.contextLength;
    this.#prefill = prefill;
    this.#step = step;
    this.#cache = cache;
  }

  static async create(device: Device, model: CausalLM): Promise<Decoder> {
    const { traced: prefill, cache } = tracePrefill(model);
    const [compiledPrefill, compiledStep] = await Promise.all([device.compile(prefill), device.compile(traceStep(model, cache))]);
    return new Decoder(model, compiledPrefill, compiledStep, { names: pastNames(cache.layers), ...cache });
  }

  room(promptTokens: number): number {
    return this.context - promptTokens;
  }

  /** Reads prompts of any lengths. Each row then goes on as it would alone. */
  async start(prompts: readonly (readonly number[])[]): Promise<Decoding> {
    const time = Math.max(0, ...prompts.map((ids) => ids.length));
    for (const [i, ids] of prompts.entries()) this.#checkIds(ids, prompts.length > 1 ? `prompt ${i + 1}` : "the prompt");
    if (prompts.length === 0) throw new EspalierError("empty-prompt", "There is no prompt to continue. Give at least one.");
    if (time > this.context)
      throw new EspalierError("context-overflow", `A prompt of ${time} tokens does not fit the model's context of ${this.context} tokens.`);
    const batch = prompts.length;
    const ids = new BigInt64Array(batch * time);
    const start = new BigInt64Array(batch);
    for (const [row, prompt] of prompts.entries()) {
      start[row] = BigInt(time - prompt.length);
      for (const [i, id] of prompt.entries()) ids[row * time + time - prompt.length + i] = BigInt(id);
    }
    const starts = hostTensor("int64", [batch], start);
    const { logits, present } = await this.#prefill.run({ ids: hostTensor("int64", [batch, time], ids), start: starts });
    // A model with virtual tokens has made keys and values for these as well.
    const columns = present!.shape[2]!;
    const cache = new KeyValueCache(this.#cache.names, { ...this.#cache, batch, limit: this.context + columns - time });
    cache.append(present!.data as Float32Array, columns);
    return new Decoding(this, this.#step, cache, { start: starts, logits: logits!.data as Float32Array, length: time });
  }

  async dispose(): Promise<void> {
    await this.#prefill.dispose();
    await this.#step.dispose();
  }

  #checkIds(ids: readonly number[], what: string): void {
    if (ids.length === 0) throw new EspalierError("empty-prompt", `Nothing can be continued: ${what} has no token. Give some text.`);
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.model.config.vocab_size);
    if (wrong !== undefined)
      throw new EspalierError(
        "unknown-token-id",
        `Token id ${wrong} of ${what} is not in the model's vocabulary of ${this.model.config.vocab_size}. Is the tokenizer the model's own?`,
      );
  }
}

/** What writes answers to prompts, or continues them. */
export interface TextGenerator {
  readonly model: { readonly config: LanguageModelConfig; readonly endIds?: readonly number[] };
  /** Tokens of prompt and answer together; undefined where the prompt takes no room from the answer. */
  readonly context?: number;
  /** Tokens that can follow a prompt of so many. */
  room(promptTokens: number): number;
  start(prompts: readonly (readonly number[])[]): Promise<Continuation>;
}

/** What a search needs of sequences being continued, one per row. */
export interface Continuation {
  readonly batch: number;
  /** Logits of a row's next token, [vocabulary]. Yours to change. */
  logits(row?: number): Float32Array;
  /** Adds one token per row and computes the logits of the next ones. */
  push(ids: readonly number[]): Promise<void>;
  /** Row `i` becomes what row `rows[i]` was: rows may be repeated, left out and added. */
  reorder(rows: readonly number[]): void;
}

/** Rows of `size` numbers, in another order. */
export function gatherRows(values: Float32Array, size: number, rows: readonly number[]): Float32Array {
  const gathered = new Float32Array(rows.length * size);
  for (const [to, from] of rows.entries()) gathered.set(values.subarray(from * size, (from + 1) * size), to * size);
  return gathered;
}

/** Sequences being continued by a decoder. */
export class Decoding implements Continuation {
  readonly #decoder: Decoder;
  readonly #step: Program;
  readonly #cache: KeyValueCache;
  #start: HostTensor;
  #logits: Float32Array;
  #length: number;

  constructor(
    decoder: Decoder,
    step: Program,
    cache: KeyValueCache,
    { start, logits, length }: { start: HostTensor; logits: Float32Array; length: number },
  ) {
    this.#decoder = decoder;
    this.#step = step;
    this.#cache = cache;
    this.#start = start;
    this.#logits = logits;
    this.#length = length;
  }

  get batch(): number {
    return this.#start.shape[0]!;
  }

  /** Columns so far: the tokens of the longest row. */
  get length(): number {
    return this.#length;
  }

  logits(row = 0): Float32Array {
    const size = this.#logits.length / this.batch;
    return this.#logits.subarray(row * size, (row + 1) * size);
  }

  reorder(rows: readonly number[]): void {
    const size = this.#logits.length / this.batch;
    this.#logits = gatherRows(this.#logits, size, rows);
    this.#start = hostTensor(
      "int64",
      [rows.length],
      BigInt64Array.from(rows, (row) => (this.#start.data as BigInt64Array)[row]!),
    );
    this.#cache.reorder(rows);
  }

  async push(ids: readonly number[]): Promise<void> {
    if (ids.length !== this.batch)
      throw new EspalierError("shape-mismatch", `A step takes one token per row: ${this.batch} were needed, ${ids.length} given.`);
    if (this.length >= this.#decoder.context)
      throw new EspalierError("context-overflow", `The model's context of ${this.#decoder.context} tokens is full; no further token fits.`);
    const { logits, present } = await this.#step.run({
      ids: hostTensor("int64", [this.batch, 1], BigInt64Array.from(ids, BigInt)),
      start: this.#start,
      length: hostTensor("int64", [1], BigInt64Array.of(BigInt(this.#cache.length))),
      ...this.#cache.feeds,
    });
    this.#cache.append(present!.data as Float32Array, 1);
    this.#length++;
    this.#logits = logits!.data as Float32Array;
  }
}
