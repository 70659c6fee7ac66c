import { readFileSync } from "node:fs";

/** The version in package.json, which lies two folders up from the source as well as one up from the built command. */
export const version: string = (() => {
  for (const path of ["../package.json", "../../package.json"]) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8")) as { name: string; version: string };
      if (name === "espalier") return version;
    } catch {
      // not here
    }
  }
  return "unknown";
})();
