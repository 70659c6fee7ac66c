import { read, type Tensor, type Variable } from "../../graph/index.ts";
import { Embedding, type EmbeddingLayer, floats, type Initializer, Parameter, zeros } from "../../nn/index.ts";
import { add, div, gather, matmul, mul, transpose } from "../../ops/index.ts";
import type { Device } from "../../runtime/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { adaptedNorm, addUpdate, rowNorms, squaredNorms } from "./weight-norm.ts";

export interface LoraEmbeddingOptions {
  rank: number;
  scaling: number;
  initB: Initializer;
  /** Weight-decomposed: every column of the table has a magnitude of its own. */
  decomposed?: boolean;
}

/**
 * An embedding with a low-rank update: its table becomes W + s·(B·A)ᵀ. `lora_embedding_A` [rank, vocabulary], `lora_embedding_B` [width, rank] and,
 * where weights are decomposed, `lora_magnitude_vector` [width]. A head that shares the table does not see the update.
 */
export class LoraEmbedding extends AdapterLayer implements Pick<EmbeddingLayer, "weight" | "table" | "scale"> {
  readonly base: Embedding;
  readonly lora_embedding_A: Parameter;
  readonly lora_embedding_B: Parameter;
  readonly lora_magnitude_vector: Parameter | undefined;
  readonly rank: number;
  readonly scaling: number;
  readonly #squares: Variable;

  constructor(base: Embedding, { rank, scaling, initB, decomposed }: LoraEmbeddingOptions) {
    super();
    this.base = base;
    this.rank = rank;
    this.scaling = scaling;
    const [vocabulary, width] = base.weight.shape as [number, number];
    this.lora_embedding_A = new Parameter([rank, vocabulary], () => zeros([rank, vocabulary]));
    this.lora_embedding_B = new Parameter([width, rank], () => initB([width, rank]));
    const columns = () => transposed(readStorage(base.weight.storage, "float32") as Float32Array, vocabulary, width);
    this.#squares = squaredNorms(`${base.path}.squares`, width, columns);
    if (decomposed) this.lora_magnitude_vector = new Parameter([width], () => floats([width], rowNorms(columns(), width)));
  }

  override get standsOn(): Embedding {
    return this.base;
  }

  get weight(): Parameter {
    return this.base.weight;
  }

  get table(): Tensor {
    return this.base.table;
  }

  get scale(): number {
    return this.base.scale;
  }

  forward(ids: Tensor): Tensor {
    const [a, b] = [this.lora_embedding_A.value, this.lora_embedding_B.value];
    const columns = gather(a, ids, 1);
    const low = transpose(columns, [...ids.shape.map((_, i) => i + 1), 0]);
    const update = mul(matmul(low, b, { transposeB: true, alpha: this.scaling }), this.scale);
    const y = add(this.base.forward(ids), update);
    if (!this.lora_magnitude_vector) return y;
    const { base, scaling } = this;
    const norm = adaptedNorm({ squares: read(this.#squares), product: matmul(a, base.table), a, b, scaling });
    return mul(y, div(this.lora_magnitude_vector.value, norm));
  }

  merged(device: Device): Embedding {
    const { base, rank, scaling, lora_magnitude_vector } = this;
    const [vocabulary, width] = base.weight.shape as [number, number];
    const values = (parameter: Parameter) => device.read(parameter).data as Float32Array;
    const columns = transposed(values(base.weight), vocabulary, width);
    const magnitude = lora_magnitude_vector && values(lora_magnitude_vector);
    addUpdate(columns, { a: values(this.lora_embedding_A), b: values(this.lora_embedding_B), rank, scaling }, magnitude);
    return plainEmbedding(base, transposed(columns, width, vocabulary));
  }
}

/** A frozen Embedding in the place of `base`. */
export function plainEmbedding(base: Embedding, table: Float32Array): Embedding {
  const [vocabulary, width] = base.weight.shape as [number, number];
  const plain = new Embedding(vocabulary, width, { init: zeros, scale: base.scale });
  plain.weight.storage = floats([vocabulary, width], table);
  return plain.freeze() as Embedding;
}

/** [rows, columns] → [columns, rows]. */
const transposed = (matrix: Float32Array, rows: number, columns: number): Float32Array =>
  Float32Array.from(matrix, (_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]!);
