import { Option } from "commander";
import { baseDtypes } from "../models/index.ts";

/** `--base-dtype`, where a base model is used that nothing trains. */
export const baseDtypeOption = (): Option =>
  new Option("--base-dtype <type>", "how the frozen base is kept; int8 is the fastest, int4 and nf4 the smallest")
    .choices([...baseDtypes])
    .default("f32");
