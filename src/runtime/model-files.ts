import { closeSync, copyFileSync, linkSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { InferenceSession } from "onnxruntime-common";
import {
  type DType,
  dtypeSize,
  EspalierError,
  elementCount,
  type FileStorage,
  type Storage,
  type Traced,
  type Variable,
} from "../graph/index.ts";
import type { EncodedModel, EncodeOptions, ExternalLocation } from "../onnx/index.ts";
import { created } from "./program.ts";
import { makeScratch, removeScratch } from "./scratch.ts";
import { streamStorage } from "./stored-values.ts";

/** Frozen values smaller than this are written into the model file itself. */
const inlineBytes = 64 * 1024;

/** A file of weights in a scratch directory, and how many sessions map it or storages keep it; the last one removes it. */
interface Weights {
  readonly name: string;
  users: number;
  remove(): void;
}

const leave = (weights: Weights): void => {
  if (--weights.users === 0) weights.remove();
};

/**
 * Weights as ONNX external data. ONNX Runtime maps them from their file, so that a base model costs no memory of its own and sessions share it;
 * but the model file must lie in the same directory, and symbolic links are refused. So each scratch directory holds hard links.
 *
 * Values that no file holds in the type that computes (16-bit floats to be widened, values held or computed in memory) are streamed into a file
 * there, once for all sessions.
 */
export class ModelFiles {
  readonly #scratch = new Map<string, string>();
  readonly #linked = new Map<string, Weights>();
  /** Constants that were written out, by what their values are. */
  readonly #written = new Map<string, Weights>();
  /** Files that follow from other files cost a pass over them: they stay for further sessions while their storage is in use. */
  readonly #storages = new FinalizationRegistry<Weights>(leave);
  #kept = new WeakSet<Storage>();
  readonly #ids = new WeakMap<object, number>();
  #count = 0;

  /** Opens a session; call `close` once it is released, for the files that no other session maps. */
  async open(
    traced: Traced,
    encodeWith: (files: Pick<EncodeOptions, "external">) => EncodedModel,
    create: (path: string) => Promise<InferenceSession>,
  ): Promise<{ session: InferenceSession; model: EncodedModel; close(): void }> {
    const directory = this.#directoryFor([...traced.graph.variables.keys()]);
    const used = new Set<Weights>();
    const close = () => {
      for (const weights of used) leave(weights);
      used.clear();
    };
    // A checkpoint's file holds many variables: it is looked at once.
    const files = new Map<string, Weights>();
    const use = (weights: Weights): string => {
      if (!used.has(weights)) weights.users++;
      used.add(weights);
      return weights.name;
    };
    const locate = ({ storage }: Variable, dtype: DType): ExternalLocation | undefined => {
      const byteLength = elementCount(storage.shape) * dtypeSize[dtype];
      if (byteLength < inlineBytes) return undefined;
      if (storage.kind !== "file" || storage.dtype !== dtype)
        return { location: use(this.#write(storage, dtype, directory)), offset: 0, byteLength };
      const weights = files.get(storage.file) ?? this.#link(storage.file, directory);
      files.set(storage.file, weights);
      return { location: use(weights), offset: storage.offset, byteLength };
    };
    const path = join(directory, `model-${this.#count++}.onnx`);
    try {
      const model = encodeWith({ external: locate });
      writeFileSync(path, model.bytes);
      return { session: await created(create(path)), model, close };
    } catch (error) {
      close();
      throw error;
    } finally {
      rmSync(path, { force: true });
    }
  }

  /** Removes every scratch directory; for when no session is left. */
  dispose(): void {
    for (const directory of this.#scratch.values()) removeScratch(directory);
    this.#scratch.clear();
    this.#linked.clear();
    this.#written.clear();
    this.#kept = new WeakSet();
  }

  /** A scratch directory on the file system of the mapped weights: hard links do not cross file systems. */
  #directoryFor(variables: readonly Variable[]): string {
    const mapped = variables.map((v) => fileOf(v.storage)).find((s) => s && s.byteLength >= inlineBytes);
    const sameDisk = !mapped || statSync(mapped.file).dev === statSync(tmpdir()).dev;
    const parent = sameDisk ? tmpdir() : dirname(mapped.file);
    const known = this.#scratch.get(parent);
    if (known) return known;
    const directory = makeScratch(parent) ?? makeScratch(tmpdir());
    if (!directory)
      throw new EspalierError("no-scratch", `No directory for model files could be made in ${tmpdir()}: free space or set TMPDIR.`);
    this.#scratch.set(parent, directory);
    return directory;
  }

  #write(storage: Storage, dtype: DType, directory: string): Weights {
    const key = [directory, this.#identity(storage), dtype].join("\0");
    const weights = this.#written.get(key) ?? this.#writeNew(storage, dtype, directory, key);
    if (storage.kind !== "memory" && !this.#kept.has(storage)) {
      this.#kept.add(storage);
      this.#storages.register(storage, weights);
      weights.users++;
    }
    return weights;
  }

  #writeNew(storage: Storage, dtype: DType, directory: string, key: string): Weights {
    const name = `weights-${this.#count++}.bin`;
    const path = join(directory, name);
    try {
      const descriptor = openSync(path, "wx");
      try {
        streamStorage(storage, dtype, (bytes) => {
          for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
        });
      } finally {
        closeSync(descriptor);
      }
    } catch (cause) {
      rmSync(path, { force: true });
      const { code } = cause as NodeJS.ErrnoException;
      if (code !== "ENOSPC" && code !== "EDQUOT") throw cause;
      throw new EspalierError(
        "disk-full",
        `${directory}: weights are written here so that they need no memory, but the disk or quota is full (${code}). Free some space or set TMPDIR to a directory on another disk.`,
        { cause },
      );
    }
    const remove = () => {
      this.#written.delete(key);
      rmSync(path, { force: true });
    };
    const weights = { name, users: 0, remove };
    this.#written.set(key, weights);
    return weights;
  }

  /** Alike for storages of the same values: a checkpoint that is opened twice is widened once. */
  #identity(storage: Storage): string {
    if (storage.kind === "converted") return `${this.#identity(storage.of)} as ${storage.dtype}`;
    if (storage.kind === "file") return [...fileVersion(storage.file), storage.offset, storage.byteLength, storage.dtype].join();
    const holder = storage.kind === "memory" ? storage.data : storage;
    const id = this.#ids.get(holder) ?? this.#count++;
    this.#ids.set(holder, id);
    return `${id} ${storage.dtype}`;
  }

  #link(file: string, directory: string): Weights {
    const key = [directory, ...fileVersion(file)].join("\0");
    const known = this.#linked.get(key);
    if (known) return known;
    const name = `${this.#count++}-${basename(file)}`;
    let users = 0;
    try {
      linkSync(file, join(directory, name));
    } catch {
      // Another file system, or one without hard links: a copy costs disk and time but is as right. It is kept for the next session.
      copyFileSync(file, join(directory, name));
      users = 1;
    }
    const remove = () => {
      this.#linked.delete(key);
      rmSync(join(directory, name), { force: true });
    };
    const weights = { name, users, remove };
    this.#linked.set(key, weights);
    return weights;
  }
}

/** Tells a file from others, and from one that replaces it in its place while a session maps it. */
function fileVersion(file: string): bigint[] {
  const { dev, ino, size, mtimeNs } = statSync(file, { bigint: true });
  return [dev, ino, size, mtimeNs];
}

/** The file that a storage's values come from. */
function fileOf(storage: Storage): FileStorage | undefined {
  if (storage.kind === "converted") return fileOf(storage.of);
  return storage.kind === "file" ? storage : undefined;
}
