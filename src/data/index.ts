export * from "./batch-source.ts";
