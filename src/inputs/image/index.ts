/** The face for images in Node: files decoded, and a checkpoint's own processing of them. In a browser import `image-processor.ts`. */
export { decodeImage } from "./decode.ts";
export { ImageProcessor } from "./image-processor.ts";
export { imageProcessorFromDirectory } from "./processor-directory.ts";
export { type ResizeKernel, type RgbImage, resizeImage } from "./resize.ts";
