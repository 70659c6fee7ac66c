/** File systems without links of one kind or both: here, the kernel's refusals are played. */
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { HubCache } from "./hub-cache.ts";

const refused = vi.hoisted(() => new Set<string>());

vi.mock("node:fs", async (importActual) => {
  const actual = await importActual<typeof import("node:fs")>();
  const unless = <F extends (...args: never[]) => unknown>(name: string, f: F) =>
    ((...args: never[]) => {
      if (refused.has(name)) throw Object.assign(new Error("operation not permitted"), { code: "EPERM" });
      return f(...args);
    }) as F;
  return {
    ...actual,
    symlinkSync: unless("symlink", actual.symlinkSync),
    linkSync: unless("link", actual.linkSync),
  };
});

test.each([
  { without: [], symbolic: true, names: 1 },
  { without: ["symlink"], symbolic: false, names: 2 },
  { without: ["symlink", "link"], symbolic: false, names: 1 },
])("a snapshot's file without $without", ({ without, symbolic, names }) => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-hub-"));
  onTestFinished(() => {
    refused.clear();
    rmSync(directory, { recursive: true });
  });
  const cache = new HubCache(directory, "org/tiny");
  const [commit, hash] = ["a".repeat(40), "b".repeat(40)];
  mkdirSync(dirname(cache.blob(hash)), { recursive: true });
  writeFileSync(cache.blob(hash), "bytes");
  for (const name of without) refused.add(name);
  cache.place(commit, "sub/file", hash);
  const path = join(cache.snapshot(commit), "sub", "file");
  expect(readFileSync(path, "utf8")).toBe("bytes");
  expect(lstatSync(path).isSymbolicLink()).toBe(symbolic);
  expect(lstatSync(cache.blob(hash)).nlink).toBe(names);
  expect(readdirSync(dirname(path))).toEqual(["file"]);
  expect(cache.has(commit, "sub/file", 5)).toBe(true);
  expect(cache.files(commit)).toEqual(["sub/file"]);
});

test("room is needed for what is still to come, not for what an earlier attempt left", () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-hub-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const cache = new HubCache(directory, "org/tiny");
  cache.prepare();
  const blob = { hash: "a".repeat(64), size: 4e12 };
  expect(() => cache.checkSpace([blob])).toThrow("the download needs 4000.0 GB, and the disk has");
  writeFileSync(cache.partial(blob.hash), "");
  truncateSync(cache.partial(blob.hash), blob.size - 1000); // a hole: it takes no room
  cache.checkSpace([blob]);
});
