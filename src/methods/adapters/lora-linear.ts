import { EspalierError, read, type Tensor, type Variable } from "../../graph/index.ts";
import { dropout, floats, type Initializer, Linear, type LinearLayer, Parameter, zeros } from "../../nn/index.ts";
import { add, div, matmul, mul, sub, sumOfSquares } from "../../ops/index.ts";
import type { Device } from "../../runtime/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import { plainLinear } from "./plain-linear.ts";
import { adaptedNorm, addUpdate, computedConstant, rowNorms, squaredNorms, stretches, type Update } from "./weight-norm.ts";

export interface LoraLinearOptions {
  rank: number;
  scaling: number;
  dropout: number;
  initA: Initializer;
  /** Whether the update has a bias. */
  bias?: boolean;
  /** Weight-decomposed: the update changes directions only, and every output has a magnitude of its own. */
  decomposed?: boolean;
}

/**
 * A linear layer with a low-rank update: y = base(x) + s·(x·Aᵀ)·Bᵀ. The base's weight and bias keep their names, so the base checkpoint still
 * loads; `lora_A.weight` [rank, in], `lora_B.weight` [out, rank] and, where weights are decomposed, `lora_magnitude_vector` [out] are named as PEFT
 * names them.
 */
export class LoraLinear extends AdapterLayer {
  readonly base: LinearLayer;
  readonly lora_A: Linear;
  readonly lora_B: Linear;
  readonly lora_magnitude_vector: Parameter | undefined;
  readonly rank: number;
  readonly scaling: number;
  readonly dropout: number;
  readonly #squares: Variable;
  readonly #stretches: Variable;

  constructor(base: LinearLayer, options: LoraLinearOptions) {
    super();
    this.base = base;
    this.rank = options.rank;
    this.scaling = options.scaling;
    this.dropout = options.dropout;
    const { inFeatures, outFeatures } = base;
    this.lora_A = new Linear(inFeatures, options.rank, { init: options.initA });
    // Zero, so that the adapted model starts as the base model.
    this.lora_B = new Linear(options.rank, outFeatures, { init: zeros, bias: options.bias ?? false });
    const weight = () => base.denseWeight((variable) => readStorage(variable.storage, variable.dtype));
    this.#squares = squaredNorms(`${base.path}.squares`, outFeatures, weight);
    const values = ({ storage }: Parameter) => readStorage(storage, "float32") as Float32Array;
    this.#stretches = computedConstant(`${base.path}.stretches`, outFeatures, () =>
      stretches(weight(), this.#update(values), values(this.lora_magnitude_vector!)),
    );
    if (options.decomposed)
      this.lora_magnitude_vector = new Parameter([outFeatures], () => floats([outFeatures], rowNorms(weight(), outFeatures)));
  }

  override get standsOn(): LinearLayer {
    return this.base;
  }

  forward(x: Tensor): Tensor {
    const dropped = dropout(x, this.dropout);
    const update = matmul(this.lora_A.forward(dropped), this.lora_B.weight.value, { transposeB: true, alpha: this.scaling });
    if (this.lora_magnitude_vector) return this.#decomposed(x, dropped, update, this.#stretch(this.lora_magnitude_vector));
    const y = add(this.base.forward(x), update);
    return this.lora_B.bias ? add(y, mul(this.lora_B.bias.value, this.scaling)) : y;
  }

  /** m·(W + s·B·A)·x/‖W + s·B·A‖ + bias. What is dropped is dropped from the change only, as in PEFT. */
  #decomposed(x: Tensor, dropped: Tensor, update: Tensor, factor: Tensor): Tensor {
    const product = this.#product(dropped);
    if (dropped !== x) return add(this.base.forward(x), add(mul(sub(factor, 1), product), mul(factor, update)));
    const y = mul(factor, add(product, update));
    return this.base.bias ? add(y, this.base.bias.value) : y;
  }

  /** m/‖W + s·B·A‖: a constant where nothing of it is trained, so that decoding does not pay for it in every step. */
  #stretch(magnitude: Parameter): Tensor {
    const { base, lora_A, lora_B } = this;
    const frozen = [...base.parameters(), lora_A.weight, lora_B.weight, magnitude].every((parameter) => parameter.frozen);
    return frozen ? read(this.#stretches) : div(magnitude.value, this.#norm());
  }

  #norm(): Tensor {
    const { base } = this;
    const [a, b] = [this.lora_A.weight.value, this.lora_B.weight.value];
    // Of a weight that is trained as well the norms change from step to step.
    const trained = base instanceof Linear && !base.weight.frozen ? base : undefined;
    const squares = trained ? sumOfSquares(trained.weight.value, trained.layout === "out-in" ? 1 : 0) : read(this.#squares);
    return adaptedNorm({ squares, product: this.#product(a), a, b, scaling: this.scaling });
  }

  /** x·Wᵀ, however the base keeps W. */
  #product(x: Tensor): Tensor {
    const { base } = this;
    return base.bias ? sub(base.forward(x), base.bias.value) : base.forward(x);
  }

  #update(values: (parameter: Parameter) => Float32Array): Update {
    const { lora_A, lora_B, rank, scaling } = this;
    return { a: values(lora_A.weight), b: values(lora_B.weight), rank, scaling };
  }

  merged(device: Device): Linear {
    const { base, scaling, lora_B, lora_magnitude_vector } = this;
    const values = (parameter: Parameter) => device.read(parameter).data as Float32Array;
    const weight = base.denseWeight((variable) => device.read(variable).data);
    const magnitude = lora_magnitude_vector && values(lora_magnitude_vector);
    addUpdate(weight, this.#update(values), magnitude);
    const bias = base.bias && values(base.bias);
    const added = lora_B.bias && values(lora_B.bias);
    if (added && !bias)
      throw new EspalierError(
        "not-mergeable",
        `The update of "${this.path}" has a bias (lora_bias), and that layer has none to take it in: the merged model would be of another shape than its configuration says. Use the adapter beside its base model.`,
      );
    return plainLinear(base, weight, added ? bias!.map((value, i) => value + scaling * added[i]!) : bias);
  }
}
