import { grad } from "../../src/autodiff/index.ts";
import { assign, Random, read, type Tensor, trace, Variable } from "../../src/graph/index.ts";
import { StackedPopulation } from "../../src/methods/index.ts";
import {
  add,
  argMax,
  cast,
  crossEntropyPerTarget,
  div,
  equal,
  expand,
  less,
  matmul,
  mean,
  mul,
  relu,
  sub,
  sum,
  uniform,
  where,
} from "../../src/ops/index.ts";
import { type HostTensor, hostTensor } from "../../src/runtime/index.ts";
import { cpu } from "../../src/runtime/node.ts";
import type { Values } from "../../src/train/search/space.ts";
import { classes, type Images, side } from "./gabor.ts";

const [inputs, hidden, momentum] = [side * side, 64, 0.9] as const;
const widths = [inputs, hidden, hidden, classes] as const;

export interface StackedMlpOptions {
  training: Images;
  batchSize: number;
  /** Each member's seed of its first weights. */
  seeds: readonly number[];
  /** Of batches and dropout, which do not depend on the member. */
  seed: number;
}

/**
 * MLPs 256 → 64 → 64 → 12 with dropout of their inputs, trained by SGD with momentum as one graph: every variable has a leading axis of members, and
 * the learning rate and the dropout of each member are inputs. All members see the same batches.
 */
export class StackedMlp {
  readonly population: StackedPopulation;
  readonly #device = cpu();
  readonly #o: StackedMlpOptions;
  readonly #weights: { weight: Variable; bias: Variable }[];
  readonly #measures = new Map<number, ReturnType<ReturnType<typeof cpu>["compile"]>>();

  /** `validation` is what members are compared on. */
  static async create(options: StackedMlpOptions, validation: Images): Promise<StackedMlp> {
    const mlp = new StackedMlp(options, validation);
    await mlp.#compile();
    return mlp;
  }

  #step: (step: number, values: readonly Values[]) => Promise<void> = async () => {};
  readonly #momenta: Variable[];

  private constructor(options: StackedMlpOptions, validation: Images) {
    this.#o = options;
    const members = options.seeds.length;
    const randoms = options.seeds.map((seed) => new Random(seed, 77));
    this.#weights = widths.slice(1).map((out, layer) => {
      const into = widths[layer]!;
      const scale = Math.sqrt(2 / into);
      const values = randoms.map((random) => Float32Array.from({ length: into * out }, () => scale * random.normal()));
      return {
        weight: variable(`${layer}.weight`, [members, into, out], joined(values)),
        bias: variable(`${layer}.bias`, [members, 1, out]),
      };
    });
    const parameters = this.#weights.flatMap(({ weight, bias }) => [weight, bias]);
    this.#momenta = parameters.map((p) => variable(`${p.name}.momentum`, p.shape));
    this.population = new StackedPopulation({
      device: this.#device,
      variables: [...parameters, ...this.#momenta],
      step: (step, values) => this.#step(step, values),
      evaluate: () => this.accuracies(validation),
    });
  }

  get #members(): number {
    return this.#o.seeds.length;
  }

  /** x [batch, inputs] or [members, batch, inputs] → [members, batch, classes]. */
  #logits(x: Tensor): Tensor {
    return this.#weights.reduce((h, { weight, bias }, layer) => {
      const y = add(matmul(h, read(weight)), read(bias));
      return layer < this.#weights.length - 1 ? relu(y) : y;
    }, x);
  }

  async #compile(): Promise<void> {
    const { batchSize, training, seed } = this.#o;
    const each = { dtype: "float32", shape: [this.#members, 1, 1] } as const;
    const scalar = { dtype: "int32", shape: [] } as const;
    const program = await this.#device.compile(
      trace({ ...imageTypes(batchSize), rate: each, dropout: each, seed: scalar, step: scalar }, ({ x, y, rate, dropout, seed, step }) => {
        // One draw for all members: a larger dropout drops what a smaller one drops, and more.
        const kept = less(dropout, uniform([1, batchSize, inputs], { seed, step }));
        const logits = this.#logits(where(kept, div(x, sub(1, dropout)), 0));
        const { losses } = crossEntropyPerTarget(logits, expand(y, [this.#members, batchSize]));
        const parameters = this.#weights.flatMap(({ weight, bias }) => [weight, bias]);
        // A sum over members: no member's gradient reads another's.
        const gradients = grad(sum(mean(losses, 1)), parameters.map(read));
        for (const [i, p] of parameters.entries()) {
          const velocity = add(mul(read(this.#momenta[i]!), momentum), gradients[i]!);
          assign(this.#momenta[i]!, velocity);
          assign(p, sub(read(p), mul(velocity, rate)));
        }
        return {};
      }),
    );
    const perMember = (values: readonly number[]) => hostTensor("float32", each.shape, Float32Array.from(values));
    this.#step = async (step, values) => {
      const random = new Random(seed, step, 5);
      const chosen = Array.from({ length: batchSize }, () => random.integer(training.count));
      await program.run({
        ...feedsOf({
          pixels: joined(chosen.map((n) => training.pixels.subarray(n * inputs, (n + 1) * inputs))),
          labels: BigInt64Array.from(chosen, (n) => training.labels[n]!),
          count: batchSize,
        }),
        rate: perMember(values.map(({ learningRate }) => learningRate as number)),
        dropout: perMember(values.map(({ dropout }) => dropout as number)),
        seed: hostTensor("int32", [], Int32Array.of(seed)),
        step: hostTensor("int32", [], Int32Array.of(step)),
      });
    };
  }

  /** Of each member; NaN where its outputs are. */
  async accuracies(images: Images): Promise<number[]> {
    const known = this.#measures.get(images.count);
    const program = known ?? this.#device.compile(trace(imageTypes(images.count), ({ x, y }) => this.#accuracy(x, y)));
    this.#measures.set(images.count, program);
    const { accuracy, size } = await (await program).run(feedsOf(images));
    return Array.from(accuracy!.data as Float32Array, (value, member) => (Number.isFinite(size!.data[member]) ? value : Number.NaN));
  }

  #accuracy(x: Tensor, y: Tensor): Record<"accuracy" | "size", Tensor> {
    const logits = this.#logits(x);
    return { accuracy: mean(cast(equal(argMax(logits, -1), y), "float32"), 1), size: sum(mul(logits, 0), [1, 2]) };
  }

  dispose(): Promise<void> {
    return this.#device.dispose();
  }
}

const variable = (name: string, shape: readonly number[], data = new Float32Array(shape.reduce((a, b) => a * b, 1))): Variable =>
  new Variable(name, { dtype: "float32", shape }, { kind: "memory", dtype: "float32", shape, data });

function joined(parts: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(parts.reduce((n, { length }) => n + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const imageTypes = (count: number) => ({ x: { dtype: "float32", shape: [count, inputs] }, y: { dtype: "int64", shape: [count] } }) as const;

const feedsOf = ({ pixels, labels, count }: Images): Record<"x" | "y", HostTensor> => ({
  x: hostTensor("float32", [count, inputs], pixels),
  y: hostTensor("int64", [count], labels),
});
