import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import {
  flushDirectory,
  hashFile,
  openSafetensors,
  readJsonObject,
  readStorage,
  writeFileAtomically,
  writeJson,
  writeSafetensors,
} from "../checkpoints/index.ts";
import { EspalierError, isFloat, type LazyStorage, type TypedArray, type Variable } from "../graph/index.ts";
import type { Device } from "../runtime/index.ts";

const count = () => z.int().nonnegative();

const stateSchema = z.object({
  step: count(),
  tokens: count(),
  /** Steps that changed nothing: batches that were skipped, or had no target. */
  withoutUpdate: count(),
  /** Of those that were skipped, the ones just before. */
  skippedInRow: count(),
  /** Batches without a target, the ones just before. */
  targetlessInRow: count(),
  /** For each gate, how often it was open. */
  updates: z.record(z.string(), count()),
  /** What methods keep on the host. */
  methods: z.array(z.object({ name: z.string(), state: z.unknown() })),
  /** Where products are computed in float16. */
  lossScale: z.object({ scale: z.number(), goodSteps: count() }).optional(),
});

/** The position of a run, beside its tensors. */
export type TrainerState = z.output<typeof stateSchema>;

export const initialState = (): TrainerState => ({
  step: 0,
  tokens: 0,
  withoutUpdate: 0,
  skippedInRow: 0,
  targetlessInRow: 0,
  updates: {},
  methods: [],
});

const tensorFile = "state.safetensors";
const stateFile = "trainer.json";
/** In the format of `sha256sum`, which can check it too. */
const sumsFile = "SHA256SUMS";

/**
 * Writes a checkpoint aside and renames it into place: a kill, a full disk or a power cut leaves either nothing of that name or the whole of it.
 * One tensor at a time is copied.
 *
 * @throws EspalierError `not-finite` when the values are not, `disk-full`, `not-writable`; nothing is left behind
 */
export function writeCheckpoint(path: string, state: TrainerState, variables: readonly Variable[], device: Device): void {
  const directory = dirname(path);
  const aside = join(directory, `.${basename(path)}.tmp`);
  try {
    rmSync(aside, { recursive: true, force: true });
    mkdirSync(aside);
    writeSafetensors(join(aside, tensorFile), new Map(variables.map((v) => [v.name, presentValues(v, device)])));
    writeJson(join(aside, stateFile), state);
    const sums = [tensorFile, stateFile].map((name) => `${hashFile(join(aside, name)).sha256}  ${name}\n`).join("");
    writeFileAtomically(join(aside, sumsFile), (append) => append(new TextEncoder().encode(sums)));
    if (existsSync(path)) removeCheckpoint(path);
    renameSync(aside, path);
    flushDirectory(directory);
  } catch (cause) {
    rmSync(aside, { recursive: true, force: true });
    throw cause;
  }
}

/** A loss is measured before the update that it causes: weights that the last update broke must not pass for good ones. */
function presentValues(variable: Variable, device: Device): LazyStorage {
  const { name, dtype, shape } = variable;
  return {
    kind: "lazy",
    dtype,
    shape,
    load() {
      const { data } = device.read(variable);
      if (isFloat(dtype) && !allFinite(data))
        throw new EspalierError("not-finite", `"${name}" holds NaN or infinite values after the update`);
      return data;
    },
  };
}

/** Products with zero are zeros, but for NaN and the infinities. */
function allFinite(values: TypedArray): boolean {
  let zero = 0;
  for (let i = 0; i < values.length; i++) zero += (values[i] as number) * 0;
  return zero === 0;
}

/** Removes a checkpoint at once, whenever the process is killed: what is half removed no longer has its name. */
export function removeCheckpoint(path: string): void {
  const aside = join(dirname(path), `.${basename(path)}.${"0".repeat(12)}.tmp`);
  rmSync(aside, { recursive: true, force: true });
  renameSync(path, aside);
  rmSync(aside, { recursive: true, force: true });
}

/** What is wrong with a checkpoint's files, or undefined when they are as they were written. */
export function damageOf(path: string): string | undefined {
  const file = join(path, sumsFile);
  if (!existsSync(file)) return `${sumsFile} is missing`;
  const sums = new Map(
    readFileSync(file, "utf8")
      .split("\n")
      .map((line) => [line.slice(66), line.slice(0, 64)]),
  );
  for (const name of [tensorFile, stateFile]) {
    const written = sums.get(name);
    if (written === undefined || !/^[0-9a-f]{64}$/.test(written)) return `${sumsFile} does not name ${name}`;
    if (!existsSync(join(path, name))) return `${name} is missing`;
    const { sha256 } = hashFile(join(path, name));
    if (sha256 !== written) return `${name} has the SHA-256 ${sha256.slice(0, 12)}… and was written with ${written.slice(0, 12)}…`;
  }
  return undefined;
}

/** Puts the values of a checkpoint into the variables, all of them or none, and returns its state. */
export function readCheckpoint(path: string, variables: readonly Variable[], device: Device): TrainerState {
  const { tensors } = openSafetensors(join(path, tensorFile));
  const file = join(path, stateFile);
  const state = stateSchema.safeParse(readJsonObject(file));
  if (!state.success) {
    const { path: key, message } = state.error.issues[0]!;
    throw new EspalierError("checkpoint-json", `${file}: ${key.join(".")} is not what this version writes there (${message}).`);
  }
  const stored = variables.map((v) => {
    const found = tensors.get(v.name);
    if (!found)
      throw new EspalierError(
        "checkpoint-mismatch",
        `${path}: the checkpoint lacks "${v.name}"; it was written by a run with other methods or another optimizer.`,
      );
    if (found.shape.join() !== v.shape.join() || found.dtype !== v.dtype)
      throw new EspalierError(
        "checkpoint-mismatch",
        `${path}: "${v.name}" is ${found.dtype} [${found.shape.join(", ")}] in the checkpoint and ${v.dtype} [${v.shape.join(", ")}] in this run; it was written by a run with other options.`,
      );
    return found;
  });
  for (const [i, v] of variables.entries()) {
    device.release(v);
    // In memory: this checkpoint's files will make room for newer ones.
    v.storage = { kind: "memory", dtype: v.dtype, shape: v.shape, data: readStorage(stored[i]!) };
  }
  return state.data;
}
