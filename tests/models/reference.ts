/** What transformers computed for a tiny checkpoint, as the scripts in `tests/fixtures/` wrote it, and how far we are from it. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { openSafetensors, readStorage } from "../../src/checkpoints/index.ts";
import { type Tensor, type Traced, trace } from "../../src/graph/index.ts";
import { type HostTensor, hostTensor } from "../../src/runtime/index.ts";
import { cpu } from "../../src/runtime/node.ts";

export const device = cpu({ threads: 1 });

export interface Reference {
  directory: string;
  /** A recorded tensor: an input is called `input.<name>`. */
  tensor(name: string): HostTensor;
}

export function reference(name: string): Reference {
  const directory = join(new URL("../fixtures/", import.meta.url).pathname, name);
  const { tensors } = openSafetensors(join(directory, "expected.safetensors"));
  return {
    directory,
    tensor(key) {
      const storage = tensors.get(key);
      if (!storage) throw new Error(`${name} has no ${key}; it has ${[...tensors.keys()].join(", ")}`);
      return hostTensor(storage.dtype, storage.shape, readStorage(storage));
    },
  };
}

/** Runs `fn` once on the given values. */
export async function run<K extends string>(
  feeds: Record<K, HostTensor>,
  fn: (inputs: Record<K, Tensor>) => Record<string, Tensor>,
): Promise<Record<string, HostTensor>> {
  const traced: Traced = trace(feeds, fn as (inputs: Record<string, Tensor>) => Record<string, Tensor>);
  const program = await device.compile(traced);
  try {
    return (await program.run(feeds)) as Record<string, HostTensor>;
  } finally {
    await program.dispose();
  }
}

/** Every element within `tolerance`, where it `counts`. */
export function expectEqual(
  got: HostTensor | undefined,
  expected: HostTensor,
  { tolerance = 1e-5, counts = () => true }: { tolerance?: number; counts?: (index: number) => boolean } = {},
): void {
  expect(got?.shape).toEqual(expected.shape);
  let largest = 0;
  for (let i = 0; i < expected.data.length; i++)
    if (counts(i)) largest = Math.max(largest, Math.abs(Number(got!.data[i]) - Number(expected.data[i])));
  expect(largest).toBeLessThan(tolerance);
}

/** A copy of a fixture with another config.json, for as long as it is used. */
export async function changed<T>(
  name: string,
  change: (config: Record<string, unknown>) => void,
  use: (directory: string) => T | Promise<T>,
): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), "espalier-"));
  try {
    cpSync(reference(name).directory, directory, { recursive: true });
    const config = JSON.parse(readFileSync(join(directory, "config.json"), "utf8"));
    change(config);
    writeFileSync(join(directory, "config.json"), JSON.stringify(config));
    return await use(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}
