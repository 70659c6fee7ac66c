import { readFileSync } from "node:fs";
import { freemem } from "node:os";

export interface AvailableMemory {
  /** What a new process could have before others are pushed out of memory. */
  bytes: number;
  /** What sets the bound: the machine, or the control group of a container. */
  bound: "machine" | "container";
}

/** Reads a file of the kernel's; undefined where there is none. */
export type ReadKernelFile = (path: string) => string | undefined;

const readKernelFile: ReadKernelFile = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
};

/** Memory that is available now, a container's limit included. */
export function availableMemory(read: ReadKernelFile = readKernelFile): AvailableMemory {
  const kilobytes = /^MemAvailable:\s+(\d+)/m.exec(read("/proc/meminfo") ?? "")?.[1];
  const machine = kilobytes === undefined ? freemem() : Number(kilobytes) * 1024;
  const container = Math.min(unified(read), legacy(read));
  return container < machine ? { bytes: container, bound: "container" } : { bytes: machine, bound: "machine" };
}

/** Left of the limits of the group and of those around it, in the unified hierarchy. */
function unified(read: ReadKernelFile): number {
  const path = /^0::(.*)$/m.exec(read("/proc/self/cgroup") ?? "")?.[1] ?? "/";
  const parts = path.split("/").filter(Boolean);
  const groups = parts.map((_, i) => `/${parts.slice(0, i + 1).join("/")}`);
  return Math.min(
    ...["", ...groups].map((group) =>
      left(read, `/sys/fs/cgroup${group}`, { limit: "memory.max", used: "memory.current", cache: "inactive_file" }),
    ),
  );
}

const legacy = (read: ReadKernelFile): number =>
  left(read, "/sys/fs/cgroup/memory", {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
  });

/** Limit minus use. The cache of files that nobody reads any more makes room for who needs it. */
function left(read: ReadKernelFile, group: string, names: { limit: string; used: string; cache: string }): number {
  const [limit, used] = [Number(read(`${group}/${names.limit}`) ?? "none"), Number(read(`${group}/${names.used}`) ?? "none")];
  if (!Number.isFinite(limit) || !Number.isFinite(used)) return Number.POSITIVE_INFINITY; // "max", or no such group
  const cache = Number(new RegExp(`^${names.cache} (\\d+)`, "m").exec(read(`${group}/memory.stat`) ?? "")?.[1] ?? 0);
  return Math.max(0, limit - used + cache);
}
