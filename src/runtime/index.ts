export * from "./device.ts";
export * from "./jit.ts";
