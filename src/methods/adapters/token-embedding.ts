import { EspalierError, read, type Tensor, Variable } from "../../graph/index.ts";
import { adaptersAreOff, type Embedding, type EmbeddingLayer, floats, Module, Parameter } from "../../nn/index.ts";
import { concat, expand, fill, gather, less, mul, unsqueeze, where } from "../../ops/index.ts";
import type { Device } from "../../runtime/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { plainEmbedding } from "./lora-embedding.ts";

/** The rows that are trained, named as PEFT names them. */
class TokenRows extends Module {
  /** [tokens, width]. They stand in for the table's rows and are not added to them. */
  readonly trainable_tokens_delta: Parameter;

  constructor(rows: number, width: number, initial: () => Float32Array) {
    super();
    this.trainable_tokens_delta = new Parameter([rows, width], () => floats([rows, width], initial()));
  }

  forward(): Tensor {
    return this.trainable_tokens_delta.value;
  }
}

/** An embedding of which the rows of some tokens are trained, and the rest of the table is not. A head that shares the table sees the trained rows. */
export class TokenEmbedding extends AdapterLayer implements Pick<EmbeddingLayer, "weight" | "table" | "scale"> {
  readonly base: Embedding;
  readonly token_adapter: TokenRows;
  readonly tokens: readonly number[];
  /** int64 [vocabulary]: the trained row of each token; of the others the number of trained rows, where a row of zeros follows. */
  readonly #places: Variable;

  constructor(base: Embedding, tokens: readonly number[]) {
    super();
    const [vocabulary, width] = base.weight.shape as [number, number];
    const outside = tokens.find((token) => token >= vocabulary);
    if (outside !== undefined)
      throw new EspalierError(
        "bad-option",
        `The token ${outside} to be trained is outside the embedding "${base.path}" of ${vocabulary} tokens.`,
      );
    this.base = base;
    this.tokens = tokens;
    this.token_adapter = new TokenRows(tokens.length, width, () => {
      const table = readStorage(base.weight.storage, "float32") as Float32Array;
      return Float32Array.from({ length: tokens.length * width }, (_, i) => table[tokens[Math.floor(i / width)]! * width + (i % width)]!);
    });
    const data = new BigInt64Array(vocabulary).fill(BigInt(tokens.length));
    for (const [row, token] of tokens.entries()) data[token] = BigInt(row);
    const type = { dtype: "int64", shape: [vocabulary] } as const;
    this.#places = new Variable(`${base.path}.trained_tokens`, type, { kind: "memory", ...type, data }, { frozen: true });
  }

  override get standsOn(): Embedding {
    return this.base;
  }

  get weight(): Parameter {
    return this.base.weight;
  }

  get table(): Tensor {
    return adaptersAreOff() ? this.base.table : this.#replaced(read(this.#places), this.base.table, 1);
  }

  get scale(): number {
    return this.base.scale;
  }

  forward(ids: Tensor): Tensor {
    return this.#replaced(gather(read(this.#places), ids), this.base.forward(ids), this.scale);
  }

  /** `rows` [..., width] with the trained ones put in by their `places` [...]. */
  #replaced(places: Tensor, rows: Tensor, scale: number): Tensor {
    const width = this.base.weight.shape[1]!;
    const trained = concat([this.token_adapter.forward(), fill([1, width], 0)], 0);
    const isTrained = unsqueeze(less(places, this.tokens.length), -1);
    return where(expand(isTrained, rows.shape), mul(gather(trained, places), scale), rows);
  }

  merged(device: Device): Embedding {
    const width = this.base.weight.shape[1]!;
    const table = device.read(this.base.weight).data as Float32Array;
    const rows = device.read(this.token_adapter.trainable_tokens_delta).data as Float32Array;
    for (const [row, token] of this.tokens.entries()) table.set(rows.subarray(row * width, (row + 1) * width), token * width);
    return plainEmbedding(this.base, table);
  }
}
