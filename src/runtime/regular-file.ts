import { statSync } from "node:fs";

/**
 * Throws, as the operating system would, when a path leads to what is no file. A model's directory from a stranger may hold a link to a device or a
 * pipe, which never ends.
 */
export function refuseIrregular(path: string): void {
  const found = statSync(path);
  if (found.isFile()) return;
  const [code, what] = found.isDirectory() ? ["EISDIR", "it is a directory"] : ["EINVAL", "it is a device or a pipe, not a file"];
  throw Object.assign(new Error(what), { code });
}
