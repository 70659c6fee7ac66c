import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

/** Everything that a module imports, directly or not: files of ours are followed, packages are named. */
function packagesBehind(entry: URL): Set<string> {
  const packages = new Set<string>();
  const seen = new Set<string>();
  const queue = [entry];
  for (let url = queue.pop(); url; url = queue.pop()) {
    if (seen.has(url.href)) continue;
    seen.add(url.href);
    const source = readFileSync(url, "utf8");
    for (const [, type, from] of source.matchAll(/^(?:import|export)\s+(type\s)?[^"';]*?from\s+"([^"]+)"/gm)) {
      if (type) continue;
      if (from!.startsWith(".")) queue.push(new URL(from!, url));
      else packages.add(from!);
    }
  }
  return packages;
}

test("the WebAssembly device needs nothing of Node", () => {
  const packages = [...packagesBehind(new URL("../../src/runtime/web.ts", import.meta.url))];
  expect(packages.filter((p) => p.startsWith("node:"))).toEqual([]);
  expect(packages.sort()).toEqual(["onnxruntime-web/wasm"]);
});
