import { expect, test } from "vitest";
import { availableMemory } from "./available-memory.ts";

const files = (entries: Record<string, string>) => (path: string) => entries[path];
const meminfo = { "/proc/meminfo": "MemTotal: 2000 kB\nMemAvailable:    1000 kB\n" };

test("of the machine: what the kernel counts as available", () => {
  expect(availableMemory(files(meminfo))).toEqual({ bytes: 1_024_000, bound: "machine" });
  expect(availableMemory(files({ ...meminfo, "/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "5\n" })).bound).toBe(
    "machine",
  );
  expect(availableMemory(files({})).bytes).toBeGreaterThan(0);
});

test("of a container: its limit without what is in use; the cache of files counts as free", () => {
  const group = "/sys/fs/cgroup/a/b";
  const cgroup = { "/proc/self/cgroup": "0::/a/b\n", [`${group}/memory.max`]: "600000\n", [`${group}/memory.current`]: "200000\n" };
  expect(availableMemory(files({ ...meminfo, ...cgroup }))).toEqual({ bytes: 400_000, bound: "container" });
  const cache = { [`${group}/memory.stat`]: "anon 1\ninactive_file 50000\n" };
  expect(availableMemory(files({ ...meminfo, ...cgroup, ...cache })).bytes).toBe(450_000);
  // The limit of a group around it counts as well.
  const outer = { "/sys/fs/cgroup/a/memory.max": "300000", "/sys/fs/cgroup/a/memory.current": "200000" };
  expect(availableMemory(files({ ...meminfo, ...cgroup, ...outer })).bytes).toBe(100_000);
});

test("of a container in the older hierarchy", () => {
  const group = "/sys/fs/cgroup/memory";
  const old = { [`${group}/memory.limit_in_bytes`]: "300000", [`${group}/memory.usage_in_bytes`]: "100000" };
  expect(availableMemory(files({ ...meminfo, ...old }))).toEqual({ bytes: 200_000, bound: "container" });
});
