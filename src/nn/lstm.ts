import type { Tensor } from "../graph/index.ts";
import { add, concat, matmul, mul, sigmoid, slice, split, tanh } from "../ops/index.ts";
import type { Initializer } from "./initializers.ts";
import { Module, Parameter } from "./module.ts";

/** One direction of one layer, its weights as PyTorch has them: rows of input, forget, cell and output gate below each other. */
class LstmDirection extends Module {
  /** [4·hidden, inputs]. */
  readonly weight_ih: Parameter;
  /** [4·hidden, hidden]. */
  readonly weight_hh: Parameter;
  /** [4·hidden]. */
  readonly bias_ih: Parameter;
  readonly bias_hh: Parameter;
  readonly #reverse: boolean;

  constructor(inputs: number, hidden: number, init: Initializer, reverse: boolean) {
    super();
    const parameter = (...shape: number[]) => new Parameter(shape, () => init(shape));
    this.weight_ih = parameter(4 * hidden, inputs);
    this.weight_hh = parameter(4 * hidden, hidden);
    this.bias_ih = parameter(4 * hidden);
    this.bias_hh = parameter(4 * hidden);
    this.#reverse = reverse;
  }

  /** x [time, inputs] → [time, hidden]. */
  forward(x: Tensor): Tensor {
    const time = x.shape[0] as number;
    const gates = add(add(matmul(x, this.weight_ih.value, { transposeB: true }), this.bias_ih.value), this.bias_hh.value);
    const outputs: Tensor[] = [];
    let state: { hidden: Tensor; cell: Tensor } | undefined;
    for (let step = 0; step < time; step++) {
      const at = this.#reverse ? time - 1 - step : step;
      const own = slice(gates, 0, at, at + 1);
      const all = state ? add(own, matmul(state.hidden, this.weight_hh.value, { transposeB: true })) : own;
      const [input, forget, candidate, output] = split(all, 4) as [Tensor, Tensor, Tensor, Tensor];
      const fresh = mul(sigmoid(input), tanh(candidate));
      const cell = state ? add(mul(sigmoid(forget), state.cell), fresh) : fresh;
      state = { hidden: mul(sigmoid(output), tanh(cell)), cell };
      outputs.push(state.hidden);
    }
    return concat(this.#reverse ? outputs.reverse() : outputs, 0);
  }
}

/**
 * A bidirectional LSTM (Hochreiter and Schmidhuber, "Long Short-Term Memory") over one short sequence of a fixed length, which is written out step by
 * step: [time, inputs] → [time, 2·hidden].
 */
export class BidirectionalLstm extends Module {
  readonly ahead: LstmDirection[];
  readonly back: LstmDirection[];

  constructor(inputs: number, hidden: number, layers: number, init: Initializer) {
    super();
    const direction = (reverse: boolean) =>
      Array.from({ length: layers }, (_, i) => new LstmDirection(i === 0 ? inputs : 2 * hidden, hidden, init, reverse));
    this.ahead = direction(false);
    this.back = direction(true);
  }

  forward(x: Tensor): Tensor {
    return this.ahead.reduce((input, ahead, i) => concat([ahead.forward(input), this.back[i]!.forward(input)], 1), x);
  }
}
