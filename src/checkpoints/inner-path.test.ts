import { expect, test } from "vitest";
import { isInnerPath } from "./inner-path.ts";

test("paths that stay inside their directory on every system", () => {
  for (const name of ["a", "a/b.json", "a..b", "...", ".gitattributes", "ä.txt"]) expect(isInnerPath(name)).toBe(true);
  for (const name of ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "C:a", "a\0", "a\u001b[31m"])
    expect(isInnerPath(name)).toBe(false);
});
