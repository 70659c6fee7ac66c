/** Images → what a vision model reads, as the checkpoint's `preprocessor_config.json` says. Nothing here imports from Node. */
import { z } from "zod";
import { EspalierError, show } from "../../graph/errors.ts";
import { type HostTensor, hostTensor } from "../../runtime/host-tensor.ts";
import { type ResizeKernel, type RgbImage, resizeImage } from "./resize.ts";

/** An edge in pixels; published models have 1024 at most. */
const edge = z.int().positive().max(4096);
const exact = z.strictObject({ height: edge, width: edge });
/** Old files hold one number, which means a square or the shortest edge according to the processor. */
const sizeSchema = z.union([exact, z.strictObject({ shortest_edge: edge }), edge]);
const perChannel = z.union([z.number(), z.array(z.number()).length(3)]);

const schema = z.looseObject({
  do_resize: z.boolean(),
  size: sizeSchema,
  resample: z.int(),
  do_center_crop: z.boolean(),
  crop_size: z.union([exact, edge]),
  do_rescale: z.boolean(),
  rescale_factor: z.number(),
  do_normalize: z.boolean(),
  image_mean: perChannel,
  image_std: perChannel,
  do_pad: z.literal(false).nullish(),
});

const half = [0.5, 0.5, 0.5];
const clip = { image_mean: [0.48145466, 0.4578275, 0.40821073], image_std: [0.26862954, 0.26130258, 0.27577711] };
const shared = {
  do_resize: true,
  do_center_crop: true,
  crop_size: 224,
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  resample: 3,
};
const crops = { ...shared, ...clip, size: { shortest_edge: 224 } };

/** What a file leaves out, by processor. */
const defaults: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  ViTImageProcessor: { ...shared, size: 224, resample: 2, do_center_crop: false, image_mean: half, image_std: half },
  DeiTImageProcessor: { ...shared, size: 256, image_mean: half, image_std: half },
  CLIPImageProcessor: crops,
  BitImageProcessor: crops,
};

/** Pillow's numbers of the kernels. */
const kernelOf: Readonly<Record<number, ResizeKernel>> = { 2: "bilinear", 3: "bicubic" };

interface Settings {
  resize: { kernel: ResizeKernel; size: { width: number; height: number } | { shortestEdge: number } } | undefined;
  crop: { width: number; height: number } | undefined;
  /** What each byte of each channel becomes, [3, 256]. */
  levels: Float32Array;
}

/** Resizes, crops, rescales and normalises images as one checkpoint asks for. */
export class ImageProcessor {
  readonly #settings: Settings;

  private constructor(settings: Settings) {
    this.#settings = settings;
  }

  /**
   * @param json the parsed `preprocessor_config.json` of a ViT, DeiT, CLIP or BiT (DINOv2) processor
   * @param file named in errors
   * @throws EspalierError `unsupported-processor`, `bad-config`
   */
  static fromJson(json: unknown, file = "preprocessor_config.json"): ImageProcessor {
    const raw = json as Record<string, unknown>;
    const kind = processorKind(raw, file);
    const given = Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null && value !== undefined));
    const parsed = schema.safeParse({ ...defaults[kind], ...given });
    if (!parsed.success) {
      const problems = parsed.error.issues.map(({ path, message }) => {
        const value = raw[String(path[0])];
        return `  "${path.join(".")}" is ${show(value)}: ${path[0] === "size" || path[0] === "crop_size" ? sizeHelp : message}`;
      });
      throw new EspalierError("bad-config", `${file} asks for what Espalier does not do with an image:\n${problems.join("\n")}`);
    }
    const config = parsed.data;
    const kernel = kernelOf[config.resample];
    if (config.do_resize && !kernel) {
      throw new EspalierError(
        "bad-config",
        `${file}: "resample" is ${config.resample}; Espalier resizes with Pillow's 2 (bilinear) and 3 (bicubic) only.`,
      );
    }
    const table = levels(config);
    if (!table.every(Number.isFinite))
      throw new EspalierError(
        "bad-config",
        `${file}: "rescale_factor", "image_mean" and "image_std" make pixels that are no finite numbers.`,
      );
    const square = (size: number) => ({ width: size, height: size });
    const { size, crop_size: crop } = config;
    const isSquare = kind === "ViTImageProcessor" || kind === "DeiTImageProcessor";
    const target =
      typeof size !== "number"
        ? "height" in size
          ? size
          : { shortestEdge: size.shortest_edge }
        : isSquare
          ? square(size)
          : { shortestEdge: size };
    return new ImageProcessor({
      resize: config.do_resize ? { kernel: kernel!, size: target } : undefined,
      crop: !config.do_center_crop ? undefined : typeof crop === "number" ? square(crop) : crop,
      levels: table,
    });
  }

  /**
   * One batch → float32 [batch, 3, height, width]. All images must come out in one size, which only processors that neither crop nor resize to a
   * fixed size leave open.
   * @throws EspalierError `empty-batch`, `image-sizes`
   */
  process(images: readonly RgbImage[]): HostTensor {
    const fitted = images.map((image) => this.#fit(image));
    const [first] = fitted;
    if (!first) throw new EspalierError("empty-batch", "There is no image to process. Give at least one.");
    const { width, height } = first;
    const other = fitted.findIndex((image) => image.width !== width || image.height !== height);
    if (other >= 0) {
      throw new EspalierError(
        "image-sizes",
        `Image ${other + 1} of the batch comes out at ${fitted[other]!.width}×${fitted[other]!.height} pixels and the first at ${width}×${height}: this processor neither crops nor resizes to a fixed size. Give images of one size, or one at a time.`,
      );
    }
    const area = width * height;
    const values = new Float32Array(images.length * 3 * area);
    for (const [n, { data }] of fitted.entries()) {
      for (let channel = 0; channel < 3; channel++) {
        const plane = values.subarray((n * 3 + channel) * area, (n * 3 + channel + 1) * area);
        const table = this.#settings.levels.subarray(channel * 256, (channel + 1) * 256);
        for (let i = 0; i < area; i++) plane[i] = table[data[i * 3 + channel]!]!;
      }
    }
    return hostTensor("float32", [images.length, 3, height, width], values);
  }

  #fit(image: RgbImage): RgbImage {
    const { resize, crop } = this.#settings;
    if (image.data.length !== image.width * image.height * 3) {
      throw new EspalierError(
        "image-sizes",
        `An image of ${image.width}×${image.height} pixels needs ${image.width * image.height * 3} bytes of red, green and blue; it has ${image.data.length}.`,
      );
    }
    const resized = resize
      ? resizeImage(image, "shortestEdge" in resize.size ? scaled(image, resize.size.shortestEdge) : resize.size, resize.kernel)
      : image;
    return crop ? centerCrop(resized, crop) : resized;
  }
}

const sizeHelp = `it must be a number, { "height", "width" } or, for "size", { "shortest_edge" }`;

function processorKind(raw: Record<string, unknown>, file: string): string {
  const named = raw.image_processor_type ?? raw.feature_extractor_type;
  // Older names (…FeatureExtractor) and those of the torchvision versions (…Fast) mean the same processing.
  const kind = (typeof named === "string" ? named : "").replace(/Fast$/, "").replace(/FeatureExtractor$/, "ImageProcessor");
  if (Object.hasOwn(defaults, kind)) return kind;
  throw new EspalierError(
    "unsupported-processor",
    `${file}: "image_processor_type" is ${named === undefined ? "missing" : show(named)}; Espalier has ${Object.keys(defaults).join(", ")}.`,
  );
}

/** float32 after each step, as in numpy. */
function levels(config: z.output<typeof schema>): Float32Array {
  const of = (value: number | readonly number[], channel: number) => Math.fround(typeof value === "number" ? value : value[channel]!);
  return Float32Array.from({ length: 3 * 256 }, (_, i) => {
    const [channel, byte] = [Math.floor(i / 256), i % 256];
    const value = config.do_rescale ? Math.fround(byte * config.rescale_factor) : byte;
    return config.do_normalize ? Math.fround(value - of(config.image_mean, channel)) / of(config.image_std, channel) : value;
  });
}

/** The size whose shorter edge is `edge`, with the image's proportions. */
function scaled({ width, height }: RgbImage, edge: number): { width: number; height: number } {
  const long = Math.floor((edge * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? { width: edge, height: long } : { width: long, height: edge };
}

/** The middle of the image; where it is smaller than the crop, black is put around. */
function centerCrop(image: RgbImage, { width, height }: { width: number; height: number }): RgbImage {
  const data = new Uint8Array(width * height * 3);
  const [top, left] = [Math.floor((image.height - height) / 2), Math.floor((image.width - width) / 2)];
  const [from, to] = [Math.max(0, left), Math.min(image.width, left + width)];
  for (let y = Math.max(0, -top); y < Math.min(height, image.height - top); y++) {
    const row = (y + top) * image.width;
    data.set(image.data.subarray((row + from) * 3, (row + to) * 3), (y * width + from - left) * 3);
  }
  return { width, height, data };
}
