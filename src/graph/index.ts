export * from "./dims.ts";
export * from "./dtype.ts";
export * from "./dtype-conversion.ts";
export * from "./errors.ts";
export * from "./graph.ts";
export * from "./random.ts";
export * from "./storage.ts";
