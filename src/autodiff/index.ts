export * from "./grad.ts";
export { rematerialise } from "./rematerialise.ts";
