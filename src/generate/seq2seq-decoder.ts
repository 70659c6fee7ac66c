import { addDims, EspalierError, symbol, type Tensor, type TensorType, type Traced, trace } from "../graph/index.ts";
import type { Encoded, Seq2SeqLM } from "../models/seq2seq.ts";
import { concat, dimension, equal, less, logicalOr, range, reshape, unsqueeze } from "../ops/index.ts";
import { type Device, type HostTensor, hostTensor, type Program } from "../runtime/index.ts";
import { KeyValueCache } from "./cache.ts";
import { type Continuation, gatherRows, type TextGenerator } from "./decoder.ts";
import { type CacheShape, joined, pastNames } from "./programs.ts";

const [batch, source, past] = [symbol("batch"), symbol("source"), symbol("past")];
const int64 = (...shape: TensorType["shape"]): TensorType => ({ dtype: "int64", shape });

/** The inputs of an encoder of text: right-padded ids and the mask of what is no padding. */
const textSource: Readonly<Record<string, TensorType>> = { ids: int64(batch, source), attentionMask: int64(batch, source) };

/** Cross-attention's keys and values of a layer, and the mask: what the encoder's program gives to the decoder's. */
const sourceNames = (layers: number): string[] => Array.from({ length: layers }, (_, i) => [`source.${i}.key`, `source.${i}.value`]).flat();

/**
 * An encoder–decoder compiled for generation: one program encodes whole sources and makes the keys and values that the decoder sees of them, the
 * other adds a token to each answer. Trainable parameters are read from the device at every run.
 */
export class Seq2SeqDecoder implements TextGenerator {
  readonly model: Seq2SeqLM;
  readonly #encode: Program;
  readonly #step: Program;
  readonly #layers: number;
  readonly #cache: CacheShape;
  readonly #masked: boolean;

  private constructor(model: Seq2SeqLM, encode: Program, step: Program, traced: TracedSeq2Seq) {
    this.model = model;
    this.#encode = encode;
    this.#step = step;
    this.#layers = traced.layers;
    this.#cache = traced.cache;
    this.#masked = traced.masked;
  }

  /** @param types the encoder's inputs; default those of text */
  static async create(device: Device, model: Seq2SeqLM, types: Readonly<Record<string, TensorType>> = textSource): Promise<Seq2SeqDecoder> {
    const traced = traceSeq2Seq(model, types);
    const [encode, step] = await Promise.all([device.compile(traced.encode), device.compile(traced.step)]);
    return new Seq2SeqDecoder(model, encode, step, traced);
  }

  /** The start token takes a place. */
  room(): number {
    return this.model.contextLength - 1;
  }

  /** Encodes texts of any lengths and begins an answer to each. */
  start(prompts: readonly (readonly number[])[]): Promise<Seq2SeqDecoding> {
    const time = Math.max(0, ...prompts.map((ids) => ids.length));
    if (prompts.length === 0 || prompts.some((ids) => ids.length === 0))
      throw new EspalierError("empty-prompt", "There is nothing to encode: give at least one text, and each with at least one token.");
    const wrong = prompts.flat().find((id) => !Number.isInteger(id) || id < 0 || id >= this.model.config.vocab_size);
    if (wrong !== undefined)
      throw new EspalierError(
        "unknown-token-id",
        `Token id ${wrong} is not in the model's vocabulary of ${this.model.config.vocab_size}. Is the tokenizer the model's own?`,
      );
    if (time > this.model.sourceLength)
      throw new EspalierError(
        "context-overflow",
        `A text of ${time} tokens does not fit the model, which reads ${this.model.sourceLength} at most. Shorten it.`,
      );
    const shape = [prompts.length, time];
    const ids = new BigInt64Array(prompts.length * time);
    const attentionMask = new BigInt64Array(prompts.length * time);
    for (const [row, prompt] of prompts.entries())
      for (const [i, id] of prompt.entries()) {
        ids[row * time + i] = BigInt(id);
        attentionMask[row * time + i] = 1n;
      }
    return this.startFrom({ ids: hostTensor("int64", shape, ids), attentionMask: hostTensor("int64", shape, attentionMask) });
  }

  /** Encodes a batch of sources and begins an answer to each. */
  async startFrom(sources: Readonly<Record<string, HostTensor>>): Promise<Seq2SeqDecoding> {
    const rows = Object.values(sources)[0]!.shape[0]!;
    const encoded = await this.#encode.run(sources);
    const seen = Object.fromEntries(
      [...sourceNames(this.#layers), ...(this.#masked ? ["sourceMask"] : [])].map((name) => [name, encoded[name]!]),
    );
    const limit = Math.min(this.model.contextLength, 2 ** 20);
    const cache = new KeyValueCache(pastNames(this.#cache.layers), { ...this.#cache, batch: rows, limit });
    cache.reserve();
    const decoding = new Seq2SeqDecoding(this.model.contextLength, this.#step, cache, seen, rows);
    await decoding.push(Array.from({ length: rows }, () => this.model.startId));
    return decoding;
  }

  async dispose(): Promise<void> {
    await this.#encode.dispose();
    await this.#step.dispose();
  }
}

/** Answers being written, one per row. */
export class Seq2SeqDecoding implements Continuation {
  readonly #limit: number;
  readonly #step: Program;
  readonly #cache: KeyValueCache;
  #seen: Readonly<Record<string, HostTensor>>;
  /** Which source each row answers: rows that only change places among the answers to one source need no copy of what they see of it. */
  #sources: readonly number[];
  #logits: Float32Array = new Float32Array();

  constructor(limit: number, step: Program, cache: KeyValueCache, seen: Readonly<Record<string, HostTensor>>, rows: number) {
    this.#limit = limit;
    this.#step = step;
    this.#cache = cache;
    this.#seen = seen;
    this.#sources = Array.from({ length: rows }, (_, i) => i);
  }

  get batch(): number {
    return this.#sources.length;
  }

  /** Tokens of each answer so far, the start token included. */
  get length(): number {
    return this.#cache.length;
  }

  logits(row = 0): Float32Array {
    const size = this.#logits.length / this.batch;
    return this.#logits.subarray(row * size, (row + 1) * size);
  }

  async push(ids: readonly number[]): Promise<void> {
    if (ids.length !== this.batch)
      throw new EspalierError("shape-mismatch", `A step takes one token per row: ${this.batch} were needed, ${ids.length} given.`);
    if (this.length >= this.#limit)
      throw new EspalierError("context-overflow", `The model's context of ${this.#limit} tokens is full; no further token fits.`);
    const { logits, present } = await this.#step.run({
      ids: hostTensor("int64", [this.batch, 1], BigInt64Array.from(ids, BigInt)),
      length: hostTensor("int64", [1], BigInt64Array.of(BigInt(this.length))),
      ...this.#seen,
      ...this.#cache.feeds,
    });
    this.#cache.append(present!.data as Float32Array, 1);
    this.#logits = logits!.data as Float32Array;
  }

  reorder(rows: readonly number[]): void {
    this.#logits = gatherRows(this.#logits, this.#logits.length / this.batch, rows);
    this.#cache.reorder(rows);
    const sources = rows.map((row) => this.#sources[row]!);
    const same = sources.length === this.#sources.length && sources.every((s, i) => s === this.#sources[i]);
    if (!same)
      this.#seen = Object.fromEntries(
        Object.entries(this.#seen).map(([name, { shape, data }]) => {
          const size = data.length / shape[0]!;
          return [name, hostTensor("float32", [rows.length, ...shape.slice(1)], gatherRows(data as Float32Array, size, rows))];
        }),
      );
    this.#sources = sources;
  }
}

interface TracedSeq2Seq {
  encode: Traced;
  step: Traced;
  layers: number;
  cache: CacheShape;
  /** Whether the decoder is told what it may see of the source. */
  masked: boolean;
}

function traceSeq2Seq(model: Seq2SeqLM, types: Readonly<Record<string, TensorType>>): TracedSeq2Seq {
  let encoded: Encoded | undefined;
  const encode = trace(types, (inputs) => {
    encoded = model.encode(inputs as never);
    const named = encoded.keyValues.flatMap(({ key, value }) => [key, value]);
    const names = sourceNames(encoded.keyValues.length);
    return { ...Object.fromEntries(names.map((name, i) => [name, named[i]!])), ...(encoded.mask && { sourceMask: encoded.mask }) };
  });
  const { keyValues, mask } = encoded!;
  const layers = keyValues.length;
  const [, kvHeads, , width] = keyValues[0]!.key.shape as [unknown, number, unknown, number];
  const cache = { layers, kvHeads, width };
  const seen: TensorType = { dtype: "float32", shape: [batch, kvHeads, source, width] };
  const stepTypes: Record<string, TensorType> = {
    ids: int64(batch, 1),
    length: int64(1),
    ...Object.fromEntries(sourceNames(layers).map((name) => [name, seen])),
    ...(mask && { sourceMask: { dtype: "float32" as const, shape: [batch, 1, 1, source] } }),
    ...Object.fromEntries(pastNames(layers).map((name) => [name, { dtype: "float32" as const, shape: [batch, kvHeads, past, width] }])),
  };
  const step = trace(stepTypes, (inputs) => {
    const { ids, length, sourceMask } = inputs as { ids: Tensor; length: Tensor; sourceMask?: Tensor };
    const pair = (prefix: string, i: number) => ({ key: inputs[`${prefix}.${i}.key`]!, value: inputs[`${prefix}.${i}.value`]! });
    const pairs = (prefix: string) => Array.from({ length: layers }, (_, i) => pair(prefix, i));
    const columns = range(addDims(past, 1));
    // The new token stands in the last column, wherever the cache ends.
    const visible = reshape(logicalOr(less(columns, length), equal(columns, dimension(past))), [1, 1, 1, addDims(past, 1)]);
    const positions = unsqueeze(length, 0);
    const keyPositions = concat([unsqueeze(range(past), 0), positions], 1);
    const { hidden, present } = model.decode(
      { ids, positions, keyPositions, visible, past: pairs("past") },
      { keyValues: pairs("source"), mask: sourceMask },
    );
    return { logits: model.logits(reshape(hidden, [batch, hidden.shape[2]!])), present: joined(present) };
  });
  return { encode, step, layers, cache, masked: mask !== undefined };
}
