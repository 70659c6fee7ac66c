/** Image files → pixels, with sharp (Node only). */
import { readFile } from "node:fs/promises";
import sharp from "sharp";
import { EspalierError } from "../../graph/errors.ts";
import type { RgbImage } from "./resize.ts";

/**
 * Decodes an image (JPEG, PNG, WebP, GIF, TIFF, AVIF; of an animation the first picture) into upright RGB: EXIF orientation is applied, grey becomes
 * three equal channels, and what is transparent shows white behind it, as in transformers. A colour profile is not applied, as Pillow applies none.
 *
 * @param source a file's path, or its bytes
 * @param name named in errors where the source is bytes
 * @throws EspalierError `image-missing`, `image-broken`
 */
export async function decodeImage(
  source: string | Uint8Array,
  name = typeof source === "string" ? source : "the image",
): Promise<RgbImage> {
  const bytes = typeof source === "string" ? await readImage(source) : source;
  if (bytes.length === 0) throw new EspalierError("image-broken", `${name}: is empty. Fetch or write the file again.`);
  try {
    const { data, info } = await sharp(bytes, { autoOrient: true, ignoreIcc: true })
      .toColourspace("srgb")
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    const { width, height, channels } = info;
    return { width, height, data: channels === 3 ? new Uint8Array(data) : toRgb(data, width * height, channels) };
  } catch (cause) {
    throw new EspalierError(
      "image-broken",
      `${name}: cannot be decoded (${(cause as Error).message.trim()}). Is it a JPEG, PNG, WebP, GIF, TIFF or AVIF file, and complete?`,
      { cause },
    );
  }
}

async function readImage(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new EspalierError("image-missing", `${path}: cannot be read (${(cause as Error).message}). Check the path.`, { cause });
  }
}

/** Grey (1 or 2 channels) becomes three equal ones; the last of 2 or 4 channels says how much of the colour covers the white behind it. */
function toRgb(data: Uint8Array, area: number, channels: number): Uint8Array {
  const rgb = new Uint8Array(area * 3);
  for (let i = 0; i < area; i++) {
    const at = i * channels;
    const cover = channels % 2 === 0 ? data[at + channels - 1]! : 255;
    for (let c = 0; c < 3; c++) rgb[i * 3 + c] = Math.round((data[at + (channels > 2 ? c : 0)]! * cover + 255 * (255 - cover)) / 255);
  }
  return rgb;
}
