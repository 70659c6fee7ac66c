export * from "./activations.ts";
export * from "./dropout.ts";
export * from "./initializers.ts";
export * from "./layers.ts";
export * from "./mode.ts";
export * from "./module.ts";
