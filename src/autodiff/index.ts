export * from "./grad.ts";
