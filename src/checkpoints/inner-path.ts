/**
 * Whether a relative path, which a server or an index gives, stays inside its directory however it is read on whatever system: backslashes and
 * colons are separators and drives on Windows, and control characters have no place in a name.
 */
export function isInnerPath(path: string): boolean {
  return path.split("/").every((part) => part !== "" && part !== "." && part !== ".." && !/[\\:\p{Cc}]/u.test(part));
}
