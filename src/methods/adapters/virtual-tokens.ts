/** Tokens that nobody wrote: they stand before every sequence, and the rest of the house never sees them. */
import { addDims, type Dim, EspalierError, mulDims, type Tensor } from "../../graph/index.ts";
import { DecoderModel } from "../../models/causal-lm.ts";
import {
  type DecoderInputs,
  type DecoderOutputs,
  type EmbeddingLayer,
  type KeyValues,
  type Layer,
  Module,
  type Parameter,
  positionsOf,
  visibleOf,
} from "../../nn/index.ts";
import {
  add,
  concat,
  dimension,
  expand,
  fill,
  gather,
  less,
  lessOrEqual,
  mul,
  range,
  reshape,
  slice,
  split,
  sub,
  transpose,
  unsqueeze,
  where,
} from "../../ops/index.ts";

/** Where the values of virtual tokens come from: [tokens, numbers of each]. */
export abstract class Prompt extends Module {
  abstract override forward(): Tensor;
}

/** What is learnt, as it is: `values` [tokens, numbers of each]. */
export class LearntPrompt extends Prompt {
  readonly values: Parameter;

  constructor(values: Parameter) {
    super();
    this.values = values;
  }

  forward(): Tensor {
    return this.values.value;
  }
}

/**
 * A decoder with `count` virtual tokens before each sequence. Where it reads a sequence from its beginning, it puts them there, leaves their hidden
 * states out, and counts the positions of the real tokens after them. Their keys and values are among the `present` ones, so that in a step with a
 * `past` there is nothing left to do. Where rows are padded on the left, they stand between the padding and the first token of each row.
 */
export abstract class VirtualTokenDecoder extends DecoderModel {
  readonly decoder: DecoderModel;
  readonly prompt: Prompt;
  readonly count: number;

  constructor(decoder: DecoderModel, prompt: Prompt, count: number) {
    super();
    this.decoder = decoder;
    this.prompt = prompt;
    this.count = count;
  }

  override get standsOn(): DecoderModel {
    return this.decoder;
  }

  get embedding(): EmbeddingLayer {
    return this.decoder.embedding;
  }

  override get virtualTokens(): number {
    return this.decoder.virtualTokens + this.count;
  }

  forward(inputs: DecoderInputs): DecoderOutputs {
    if (inputs.past) return this.decoder.forward(inputs);
    const { hidden, present } = this.read(inputs);
    return { hidden, present: inputs.positions ? moved(present, inputs.positions, this.count) : present };
  }

  /** Reads sequences from their beginning: the hidden states of the real tokens, and keys and values of the virtual tokens followed by those. */
  protected abstract read(inputs: DecoderInputs): DecoderOutputs;

  /** int64 [batch, count + time]: the places of the virtual tokens, then those of the real ones. */
  protected allPositions(positions: Tensor): Tensor {
    const batch = positions.shape[0]!;
    return concat([expand(unsqueeze(range(this.count), 0), [batch, this.count]), add(positions, this.count)], 1);
  }
}

/** Virtual tokens given as embeddings, which every layer then reads as it reads words. */
export class PromptedDecoder extends VirtualTokenDecoder {
  protected read(inputs: DecoderInputs): DecoderOutputs {
    const { count } = this;
    const embedded = inputs.embeddings ?? this.embedding.forward(inputs.ids!);
    const [batch, time, width] = embedded.shape as [Dim, Dim, number];
    const embeddings = concat([expand(unsqueeze(this.prompt.forward(), 0), [batch, count, width]), embedded], 1);
    const packed = inputs.documentStarts !== undefined;
    const places = packed ? positionsOf(inputs, batch, time) : inputs.positions;
    const { hidden, present } = this.decoder.forward({
      embeddings,
      positions: places && this.allPositions(places),
      keyPositions: inputs.keyPositions && this.allPositions(inputs.keyPositions),
      // What virtual tokens compute depends on nothing behind them, so all documents of a row share them.
      visible: packed || inputs.visible ? this.#visible(visibleOf(inputs, time)) : undefined,
    });
    return { hidden: slice(hidden, 1, count), present };
  }

  /** [..., time, time] → [..., count + time, count + time]: virtual tokens see themselves and those before, and every token sees all of them. */
  #visible(visible: Tensor): Tensor {
    const { count } = this;
    const before = visible.shape.slice(0, -2);
    const time = visible.shape.at(-1)!;
    const own = lessOrEqual(range(addDims(count, time)), unsqueeze(range(count), 1));
    const axis = visible.rank - 2;
    const rows = expand(visible, [...before, time, time]);
    const real = concat([fill([...before, time, count], 1, "bool"), rows], axis + 1);
    return concat([expand(own, [...before, count, addDims(count, time)]), real], axis);
  }
}

/** Virtual tokens given as keys and values of every layer: the prompt holds [count, layers · (key, value) · kvHeads · width]. */
export class PrefixedDecoder extends VirtualTokenDecoder {
  readonly #layers: number;
  readonly #kvHeads: number;

  constructor(decoder: DecoderModel, prompt: Prompt, count: number, shape: { layers: number; kvHeads: number }) {
    super(decoder, prompt, count);
    this.#layers = shape.layers;
    this.#kvHeads = shape.kvHeads;
  }

  protected read(inputs: DecoderInputs): DecoderOutputs {
    const { count } = this;
    const [batch, time] = (inputs.ids ?? inputs.embeddings)!.shape as [Dim, Dim];
    const prefix = this.#prefix(batch);
    const places = positionsOf(inputs, batch, time);
    const own = visibleOf(inputs, time);
    const before = own.shape.slice(0, -2);
    const { hidden, present } = this.decoder.forward({
      ...inputs,
      documentStarts: undefined,
      positions: add(places, count),
      keyPositions: this.allPositions(inputs.keyPositions ?? places),
      visible: concat([fill([...before, time, count], 1, "bool"), expand(own, [...before, time, time])], own.rank - 1),
      past: prefix,
    });
    const joined = present.map(({ key, value }, i) => ({
      key: concat([prefix[i]!.key, key], 2),
      value: concat([prefix[i]!.value, value], 2),
    }));
    return { hidden, present: joined };
  }

  /** For each layer keys and values, [batch, kvHeads, count, width]. */
  #prefix(batch: Dim): KeyValues[] {
    const { count } = this;
    const values = this.prompt.forward();
    const width = (values.shape[1] as number) / (2 * this.#layers * this.#kvHeads);
    const planes = transpose(reshape(values, [count, 2 * this.#layers, this.#kvHeads, width]), [1, 2, 0, 3]);
    const full = split(planes, 2 * this.#layers, 0).map((plane) => expand(plane, [batch, this.#kvHeads, count, width]));
    return Array.from({ length: this.#layers }, (_, i) => ({ key: full[2 * i]!, value: full[2 * i + 1]! }));
  }
}

/**
 * Keys and values [batch, kvHeads, count + time, width] with the virtual tokens moved from the front to where each row begins: behind its padding, which
 * is as long as its last position falls short of the last column. So every column from there on is a token of the row, for whoever keeps them.
 */
function moved(present: readonly KeyValues[], positions: Tensor, count: number): KeyValues[] {
  const [batch, kvHeads, columns] = present[0]!.key.shape as [Dim, Dim, Dim, Dim];
  const padding = sub(sub(dimension(positions.shape[1]!), 1), slice(positions, 1, -1));
  const column = unsqueeze(range(columns), 0);
  // [batch, columns]: padding, virtual tokens, the rest.
  const from = where(less(column, padding), add(column, count), where(less(column, add(padding, count)), sub(column, padding), column));
  const plane = reshape(mul(range(mulDims(batch, kvHeads)), dimension(columns)), [batch, kvHeads, 1]);
  const rows = add(plane, unsqueeze(from, 1));
  const move = (t: Tensor) => gather(reshape(t, [mulDims(mulDims(batch, kvHeads), columns), t.shape[3]!]), rows);
  return present.map(({ key, value }) => ({ key: move(key), value: move(value) }));
}

/** The decoder of a language model or of a classifier on one. */
export function decoderOf(model: Module, method: string): DecoderModel {
  const { decoder } = model as { decoder?: Layer | DecoderModel };
  if (!(decoder instanceof DecoderModel))
    throw new EspalierError(
      "no-decoder",
      `${method} needs a decoder: a causal language model, or a classifier on one. Use lora or ia3 for this model.`,
    );
  if (decoder instanceof VirtualTokenDecoder)
    throw new EspalierError("already-adapted", "The model has virtual tokens already. Take that adapter off first.");
  return decoder;
}
