/** Models of images: what the rest of the house knows of them, and heads on an encoder, the same for every family. */
import { Random, type Tensor } from "../graph/index.ts";
import { type Initializer, type Layer, Linear, Module, normal } from "../nn/index.ts";
import { add, mul } from "../ops/index.ts";
import type { Family } from "./family.ts";

/** What an encoder makes of a batch of images. */
export interface ImageFeatures {
  /** [batch, tokens, width] after the last norm: first the tokens that stand for the whole image, then one for each patch, row by row. */
  hidden: Tensor;
  /** The same before that norm: the embedding, and what each layer makes of it. */
  states: readonly Tensor[];
}

/** An encoder without heads: float32 pixels [batch, channels, height, width], as the checkpoint's image processor makes them → features. */
export abstract class ImageEncoder extends Module {
  abstract override forward(pixels: Tensor): ImageFeatures;
}

/** A classification head: the columns of its weight, and what it reads of the features, [batch, columns]. */
export interface ImageHead {
  columns: number;
  read(features: ImageFeatures): Tensor;
}

/** A family of image encoders: its bare models and its classifiers follow. */
export interface ImageFamilyOptions<C extends ImageModelConfig> extends Pick<Family<C>, "models" | "modelTypes" | "prefix" | "derived"> {
  /** As in the class names of transformers. */
  name: string;
  readConfig(json: unknown, file: string): C;
  encoder(config: C, init: Initializer): ImageEncoder;
  /** The classification heads by their fields; the logits of several are averaged. */
  heads(config: C): Readonly<Record<string, ImageHead>>;
}

/** The fields of `config.json` that the heads need. */
export interface ImageModelConfig {
  initializer_range: number;
  [key: string]: unknown;
}

const initOf = ({ initializer_range }: ImageModelConfig, seed: number): Initializer => normal(new Random(seed), initializer_range);

/** An encoder alone, under the name that it has in checkpoints with a head. */
export class ImageModel extends Module {
  readonly architecture: string;
  readonly config: ImageModelConfig;
  readonly #prefix: string;

  constructor(options: ImageFamilyOptions<ImageModelConfig>, config: ImageModelConfig, seed = 0) {
    super();
    this.architecture = `${options.name}Model`;
    this.config = config;
    this.#prefix = options.prefix;
    Object.assign(this, { [this.#prefix]: options.encoder(config, initOf(config, seed)) });
    this.assignNames();
  }

  get encoder(): ImageEncoder {
    return (this as unknown as Record<string, ImageEncoder>)[this.#prefix]!;
  }

  /** pixels [batch, channels, height, width] → features. */
  forward(pixels: Tensor): ImageFeatures {
    return this.encoder.forward(pixels);
  }
}

/** An encoder with classification heads. */
export class ImageClassifier extends Module {
  readonly architecture: string;
  readonly config: ImageModelConfig;
  /** The classes, in the order of the logits. */
  readonly labels: readonly string[];
  /** Whether the heads have initial values only, because no checkpoint brought any. */
  headIsFresh = true;
  /** Paths of the modules that a checkpoint brought no values for. An adapter has to bring theirs. */
  freshModules: readonly string[] = [];
  readonly #prefix: string;
  readonly #reads: Readonly<Record<string, ImageHead>>;

  constructor(options: ImageFamilyOptions<ImageModelConfig>, config: ImageModelConfig, labels: readonly string[], seed = 0) {
    super();
    this.#reads = options.heads(config);
    this.architecture = `${options.name}ForImageClassification${Object.keys(this.#reads).length > 1 ? "WithTeacher" : ""}`;
    this.config = config;
    this.labels = labels;
    this.#prefix = options.prefix;
    const init = initOf(config, seed);
    Object.assign(this, { [this.#prefix]: options.encoder(config, init) });
    for (const [name, { columns }] of Object.entries(this.#reads))
      Object.assign(this, { [name]: new Linear(columns, labels.length, { init, bias: true }) });
    this.assignNames();
  }

  get encoder(): ImageEncoder {
    return (this as unknown as Record<string, ImageEncoder>)[this.#prefix]!;
  }

  /** The layers whose rows are the classes, by their names. */
  get heads(): ReadonlyMap<string, Layer> {
    return new Map(Object.keys(this.#reads).map((name) => [name, (this as unknown as Record<string, Layer>)[name]!]));
  }

  /** pixels [batch, channels, height, width] → logits [batch, labels]. */
  forward(pixels: Tensor): Tensor {
    const features = this.encoder.forward(pixels);
    const logits = [...this.heads].map(([name, head]) => head.forward(this.#reads[name]!.read(features)));
    const [first, ...more] = logits as [Tensor, ...Tensor[]];
    return more.length === 0
      ? first
      : mul(
          more.reduce((a, b) => add(a, b), first),
          1 / logits.length,
        );
  }
}

/** The family of an image encoder, for the table. */
export const imageFamily = <C extends ImageModelConfig>(options: ImageFamilyOptions<C>): Family<C> => ({
  ...options,
  imageModel: (config, seed) => new ImageModel(options as never, config, seed),
  imageClassifier: (config, labels, seed) => new ImageClassifier(options as never, config, labels, seed),
});
