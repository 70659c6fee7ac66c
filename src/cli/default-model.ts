import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The embedded base model: `models/sapling` of this package, seen from the source or from the built command. */
export const defaultModel: string =
  ["../models/sapling", "../../models/sapling"]
    .map((path) => fileURLToPath(new URL(path, import.meta.url)))
    .find((path) => existsSync(path)) ?? "models/sapling";
