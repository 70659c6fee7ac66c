/** Small networks that make virtual tokens while they are learnt. What they make is saved, and they are not. */
import { Random, type Tensor } from "../../graph/index.ts";
import { BidirectionalLstm, type Initializer, kaimingUniform, Linear, normal, Parameter, uniform, zeros } from "../../nn/index.ts";
import { relu, tanh } from "../../ops/index.ts";
import { Prompt } from "./virtual-tokens.ts";

export interface EncoderOptions {
  tokens: number;
  /** Numbers of each token. */
  width: number;
  hidden: number;
  seed: number;
}

const dense = (inputs: number, outputs: number, init: Initializer) => new Linear(inputs, outputs, { init, bias: true });

/** Embeddings through three Linears with ReLU between them. */
export class MlpPromptEncoder extends Prompt {
  readonly embedding: Parameter;
  readonly mlp_head: Linear[];

  constructor({ tokens, width, hidden, seed }: EncoderOptions) {
    super();
    const random = new Random(seed);
    const init = kaimingUniform(random);
    this.embedding = new Parameter([tokens, width], () => normal(random, 1)([tokens, width]));
    this.mlp_head = [dense(width, hidden, init), dense(hidden, hidden, init), dense(hidden, width, init)];
  }

  forward(): Tensor {
    const [first, second, third] = this.mlp_head as [Linear, Linear, Linear];
    return third.forward(relu(second.forward(relu(first.forward(this.embedding.value)))));
  }
}

/** Embeddings through a bidirectional LSTM and two Linears with ReLU between them. */
export class LstmPromptEncoder extends Prompt {
  readonly embedding: Parameter;
  readonly lstm_head: BidirectionalLstm;
  readonly mlp_head: Linear[];

  constructor({ tokens, width, hidden, seed, layers }: EncoderOptions & { layers: number }) {
    super();
    const random = new Random(seed);
    const init = kaimingUniform(random);
    this.embedding = new Parameter([tokens, width], () => normal(random, 1)([tokens, width]));
    this.lstm_head = new BidirectionalLstm(width, hidden, layers, uniform(random, 1 / Math.sqrt(hidden)));
    this.mlp_head = [dense(2 * hidden, 2 * hidden, init), dense(2 * hidden, width, init)];
  }

  forward(): Tensor {
    const [first, second] = this.mlp_head as [Linear, Linear];
    return second.forward(relu(first.forward(this.lstm_head.forward(this.embedding.value))));
  }
}

/** Embeddings of the model's width through two Linears with tanh between them: to the keys and values of all layers. */
export class PrefixEncoder extends Prompt {
  readonly embedding: Parameter;
  readonly transform: Linear[];

  constructor({ tokens, width, hidden, seed, embeddingWidth, zero }: EncoderOptions & { embeddingWidth: number; zero: boolean }) {
    super();
    const random = new Random(seed);
    const init = kaimingUniform(random);
    this.embedding = new Parameter([tokens, embeddingWidth], () => normal(random, 1)([tokens, embeddingWidth]));
    this.transform = [dense(embeddingWidth, hidden, init), dense(hidden, width, zero ? zeros : init)];
  }

  forward(): Tensor {
    const [first, second] = this.transform as [Linear, Linear];
    return second.forward(tanh(first.forward(this.embedding.value)));
  }
}
