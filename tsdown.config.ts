import { defineConfig } from "tsdown";

/** One entry for the public face, one per room, the command, and what its configurations import. Modules stay files of their own, so that a browser loads what it uses. */
export default defineConfig({
  entry: [
    "src/index.ts",
    "src/*/index.ts",
    "src/onnx/decode/index.ts",
    "src/runtime/{node,web}.ts",
    "src/data/records.ts",
    "src/inputs/{text,image,audio}/index.ts",
    "src/cli/main.ts",
    "src/cli/config/define-run.ts",
  ],
  format: "esm",
  platform: "neutral",
  unbundle: true,
  dts: true,
  clean: true,
  external: [/^node:/, /^[^./]/],
});
