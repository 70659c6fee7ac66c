export * from "./device.ts";
export * from "./jit.ts";
export * from "./matmul-peak.ts";
