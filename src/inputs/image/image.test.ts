import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { openSafetensors, readJsonObject, readStorage } from "../../checkpoints/index.ts";
import { decodeImage, ImageProcessor, imageProcessorFromDirectory, type RgbImage, resizeImage } from "./index.ts";

const fixtures = new URL("../../../tests/fixtures/image-inputs/", import.meta.url).pathname;
const { tensors } = openSafetensors(join(fixtures, "expected.safetensors"));
const processor = (name: string) => ImageProcessor.fromJson(readJsonObject(join(fixtures, `${name}.json`)));

function expectSame(got: { shape: readonly number[]; data: ArrayLike<unknown> }, name: string): void {
  const storage = tensors.get(name)!;
  const expected = readStorage(storage) as Float32Array;
  expect(got.shape).toEqual(storage.shape);
  expect(got.data).toEqual(expected);
}

const grey = (width: number, height: number, values: readonly number[]): RgbImage => ({
  width,
  height,
  data: Uint8Array.from(values.flatMap((v) => [v, v, v])),
});
const red = ({ data }: RgbImage) => Array.from(data).filter((_, i) => i % 3 === 0);

describe("an image processor computes what transformers computes with Pillow, bit for bit", () => {
  test.each(["vit", "vit-larger", "deit", "clip", "dinov2"])("%s", async (name) => {
    expectSame(processor(name).process([await decodeImage(join(fixtures, "rgb.png"))]), name);
  });

  test.each(["grey.png", "palette.png", "alpha.png", "plain.jpg", "turned.jpg"])("%s is decoded to the same colours", async (file) => {
    expectSame(processor("clip").process([await decodeImage(join(fixtures, file))]), file);
  });

  test("a batch is its images one after the other", async () => {
    const files = ["rgb.png", "grey.png"].map((file) => decodeImage(join(fixtures, file)));
    const batch = processor("clip").process(await Promise.all(files));
    expect(batch.shape).toEqual([2, 3, 24, 24]);
    const [first, second] = [0, 1].map((i) => ({
      shape: [1, 3, 24, 24],
      data: (batch.data as Float32Array).subarray(i * 1728, (i + 1) * 1728),
    }));
    expectSame(first!, "clip");
    expectSame(second!, "grey.png");
  });
});

describe("resizing", () => {
  test("halving a row by hand: triangles two pixels wide on each side, weights 1/8 3/8 3/8 1/8, cut off at the ends", () => {
    const { width, data } = resizeImage(grey(4, 1, [0, 80, 160, 240]), { width: 2, height: 1 }, "bilinear");
    expect(width).toBe(2);
    // Left: (3·0 + 3·80 + 1·160)/7 = 57.1; right by symmetry 182.9.
    expect(Array.from(data)).toEqual([57, 57, 57, 183, 183, 183]);
  });

  test("doubling a column by hand; an axis that keeps its size is not touched", () => {
    expect(red(resizeImage(grey(1, 2, [0, 100]), { width: 1, height: 4 }, "bilinear"))).toEqual([0, 25, 75, 100]);
  });

  test("a cubic overshoots an edge and is clipped to a byte", () => {
    const values = red(resizeImage(grey(4, 1, [0, 0, 255, 255]), { width: 8, height: 1 }, "bicubic"));
    expect(Math.min(...values)).toBe(0);
    expect(Math.max(...values)).toBe(255);
    expect(values[3]! + values[4]!).toBe(255);
  });

  test("sizes must be positive", () => {
    expect(() => resizeImage(grey(1, 1, [1]), { width: 0, height: 4 }, "bilinear")).toThrow(/0×4/);
  });
});

describe("what files say", () => {
  const size = (json: object, image = grey(40, 20, Array(800).fill(9))) => ImageProcessor.fromJson(json).process([image]).shape;

  test("one number is a square for ViT and the shortest edge for CLIP; older names mean the same", () => {
    expect(size({ image_processor_type: "ViTImageProcessorFast", size: 10 })).toEqual([1, 3, 10, 10]);
    expect(size({ feature_extractor_type: "CLIPFeatureExtractor", size: 10, do_center_crop: false })).toEqual([1, 3, 10, 20]);
    expect(size({ image_processor_type: "BitImageProcessor", do_resize: false, crop_size: 12 })).toEqual([1, 3, 12, 12]);
  });

  test("a processor that Espalier does not have, or an option, is refused by name", () => {
    expect(() => ImageProcessor.fromJson({ image_processor_type: "DetrImageProcessor" }, "f.json")).toThrow(
      /f\.json: .*"DetrImageProcessor"; Espalier has ViT/,
    );
    expect(() => ImageProcessor.fromJson({})).toThrow(/missing/);
    expect(() => ImageProcessor.fromJson({ image_processor_type: "ViTImageProcessor", resample: 1 })).toThrow(/"resample" is 1/);
    expect(() => ImageProcessor.fromJson({ image_processor_type: "CLIPImageProcessor", size: { longest_edge: 9 } })).toThrow(
      /"size" is {"longest_edge":9}: it must be/,
    );
    expect(() => ImageProcessor.fromJson({ image_processor_type: "CLIPImageProcessor", do_pad: true })).toThrow(/"do_pad" is true/);
  });

  test("images that come out in several sizes, none, and pixels that are not there are refused", () => {
    const loose = ImageProcessor.fromJson({ image_processor_type: "ViTImageProcessor", do_resize: false });
    expect(() => loose.process([grey(2, 1, [0, 0]), grey(1, 2, [0, 0])])).toThrow(/Image 2 of the batch comes out at 1×2/);
    expect(() => loose.process([])).toThrow(/no image/);
    expect(() => loose.process([{ width: 2, height: 2, data: new Uint8Array(3) }])).toThrow(/needs 12 bytes.*has 3/);
  });

  test("a directory without the file is refused; a processor of several modalities keeps its part in processor_config.json", () => {
    const directory = mkdtempSync(join(tmpdir(), "espalier-"));
    try {
      expect(() => imageProcessorFromDirectory(directory)).toThrow(/neither preprocessor_config.json/);
      writeFileSync(
        join(directory, "processor_config.json"),
        JSON.stringify({ image_processor: readJsonObject(join(fixtures, "clip.json")) }),
      );
      expect(imageProcessorFromDirectory(directory).process([grey(40, 20, Array(800).fill(9))]).shape).toEqual([1, 3, 24, 24]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe("files that are no images", () => {
  test("a missing, an empty, a cut and a foreign file are named", async () => {
    await expect(decodeImage(join(fixtures, "none.png"))).rejects.toMatchObject({ code: "image-missing", message: /none\.png/ });
    await expect(decodeImage(new Uint8Array())).rejects.toMatchObject({ code: "image-broken", message: /empty/ });
    for (const file of ["rgb.png", "plain.jpg"]) {
      const bytes = readFileSync(join(fixtures, file));
      await expect(decodeImage(bytes.subarray(0, bytes.length / 2), file)).rejects.toMatchObject({ code: "image-broken" });
    }
    await expect(decodeImage(join(fixtures, "versions.json"))).rejects.toMatchObject({
      code: "image-broken",
      message: /versions\.json.*decoded/,
    });
  });

  test("sixteen bits, two channels and CMYK become RGB", async () => {
    const pixels = { create: { width: 3, height: 2, channels: 3 as const, background: { r: 200, g: 100, b: 50 } } };
    const files = [
      await sharp(pixels).toColourspace("rgb16").png().toBuffer(),
      await sharp(pixels).ensureAlpha().toColourspace("b-w").png().toBuffer(),
      await sharp(pixels).toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer(),
    ];
    const [deep, pair, cmyk] = await Promise.all(files.map((file) => decodeImage(file)));
    expect(Array.from(deep!.data.subarray(0, 3))).toEqual([200, 100, 50]);
    expect(pair!.data).toHaveLength(18);
    expect(new Set(pair!.data).size).toBe(1);
    expect(cmyk!.data).toHaveLength(18);
  });
});
