import { EspalierError, Random, Tensor, type TensorType, trace } from "../../graph/index.ts";
import { kaimingUniform, Linear, type Module, outOfTraining, type Parameter, tapped } from "../../nn/index.ts";
import { add, cosineSimilarity, mean, mul, sub } from "../../ops/index.ts";

export interface HiddenStateOptions {
  /** Paths of the modules whose outputs are to agree, the student's and the teacher's: `["model.layers.1", "model.layers.3"]`. */
  layers: readonly (readonly [student: string, teacher: string])[];
  /** "mse", the mean squared difference of a token's states, or "cosine", 1 − their cosine. Default "mse". */
  loss?: "mse" | "cosine";
  /** Factor on the mean over the layers, beside the other losses. Default 1. */
  weight?: number;
  /** Seed of the projections. Default 0. */
  seed?: number;
}

/** Two models on the same inputs, and how far their hidden states are apart. */
export class HiddenStates<M extends Module> {
  readonly #student: M;
  readonly #teacher: M;
  readonly #options: HiddenStateOptions;
  /** From the student's width to the teacher's, where they differ (Romero et al., "FitNets: Hints for Thin Deep Nets"). */
  readonly #projections: readonly (Linear | undefined)[];

  /** @param probe inputs of any size, of which widths are told without running anything */
  constructor(student: M, teacher: M, options: HiddenStateOptions, probe: { types: Record<string, TensorType>; run: Run<M> }) {
    this.#student = student;
    this.#teacher = teacher;
    this.#options = options;
    if (options.layers.length === 0)
      throw new EspalierError(
        "bad-option",
        "distillation: name at least one pair of layers whose states are to agree, or leave `states` out.",
      );
    const widths = (model: M, which: 0 | 1) => {
      let found: number[] = [];
      trace(probe.types, (inputs) => {
        const paths = options.layers.map((pair) => pair[which]);
        const { outputs } = tapped(paths, () => probe.run(model, inputs));
        found = outputs.map((output, i) => stateOf(output, paths[i]!).shape.at(-1) as number);
        return {};
      });
      return found;
    };
    const [mine, theirs] = [widths(student, 0), widths(teacher, 1)];
    const random = new Random(options.seed ?? 0);
    this.#projections = mine.map((width, i) => {
      if (width === theirs[i]) return undefined;
      const projection = new Linear(width, theirs[i]!, { init: kaimingUniform(random) });
      projection.weight.name = `distillation.projections.${i}.weight`;
      return projection;
    });
  }

  get parameters(): Parameter[] {
    return this.#projections.flatMap((projection) => (projection ? [projection.weight] : []));
  }

  /** What both models give, and for each token how far their states are apart, [batch, time]. */
  trace(inputs: Readonly<Record<string, Tensor>>, run: Run<M>): { mine: Tensor; theirs: Tensor; distances: Tensor } {
    const { layers, loss = "mse", weight = 1 } = this.#options;
    const paths = (which: 0 | 1) => layers.map((pair) => pair[which]);
    const mine = tapped(paths(0), () => run(this.#student, inputs));
    const theirs = outOfTraining(() => tapped(paths(1), () => run(this.#teacher, inputs)));
    const distances = layers.map(([path, teacherPath], i) => {
      const state = stateOf(mine.outputs[i], path);
      const [projected, target] = [this.#projections[i]?.forward(state) ?? state, stateOf(theirs.outputs[i], teacherPath)];
      if (loss === "cosine") return sub(1, cosineSimilarity(projected, target));
      const difference = sub(projected, target);
      return mean(mul(difference, difference), -1);
    });
    return { mine: mine.result, theirs: theirs.result, distances: mul(distances.reduce(add), weight / layers.length) };
  }
}

/** Runs one of the models. */
export type Run<M> = (model: M, inputs: Readonly<Record<string, Tensor>>) => Tensor;

/** The hidden states [batch, time, width] among what a module returns: a block of a decoder gives its keys and values as well. */
function stateOf(output: unknown, path: string): Tensor {
  const { y, hidden } = (output ?? {}) as { y?: unknown; hidden?: unknown };
  const state = [output, y, hidden].find((value) => value instanceof Tensor);
  if (state instanceof Tensor && state.rank === 3) return state;
  throw new EspalierError("distillation", `"${path}" does not return hidden states [batch, time, width]. Name a block, as model.layers.3.`);
}
