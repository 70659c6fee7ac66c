import { copyFileSync, linkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { InferenceSession } from "onnxruntime-common";
import { EspalierError, type FileStorage, type Traced, type TypedArray, type Variable } from "../graph/index.ts";
import { type EncodedModel, type EncodeOptions, type ExternalLocation, rawBytes } from "../onnx/index.ts";
import { created } from "./program.ts";
import { makeScratch, removeScratch } from "./scratch.ts";

/** Frozen values smaller than this are written into the model file itself. */
const inlineBytes = 64 * 1024;

/** A file of weights in a scratch directory, and how many sessions map it; the last one removes it. */
interface Weights {
  readonly name: string;
  users: number;
  remove(): void;
}

/**
 * Weights as ONNX external data. ONNX Runtime maps them from their file, so that a base model costs no memory of its own and sessions share it;
 * but the model file must lie in the same directory, and symbolic links are refused. So each scratch directory holds hard links.
 */
export class ModelFiles {
  readonly #scratch = new Map<string, string>();
  readonly #linked = new Map<string, Weights>();
  /** Large in-memory constants, written once and shared by all sessions. */
  #written = new WeakMap<TypedArray, Map<string, Weights>>();
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
      for (const weights of used) if (--weights.users === 0) weights.remove();
      used.clear();
    };
    // A checkpoint's file holds many variables: it is looked at once.
    const files = new Map<string, Weights>();
    const use = (weights: Weights): string => {
      if (!used.has(weights)) weights.users++;
      used.add(weights);
      return weights.name;
    };
    const locate = ({ storage }: Variable): ExternalLocation | undefined => {
      if (storage.kind === "memory") {
        const { byteLength } = storage.data;
        return byteLength < inlineBytes ? undefined : { location: use(this.#write(storage.data, directory)), offset: 0, byteLength };
      }
      if (storage.byteLength < inlineBytes) return undefined;
      const weights = files.get(storage.file) ?? this.#link(storage.file, directory);
      files.set(storage.file, weights);
      return { location: use(weights), offset: storage.offset, byteLength: storage.byteLength };
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
    this.#written = new WeakMap();
  }

  /** A scratch directory on the file system of the mapped weights: hard links do not cross file systems. */
  #directoryFor(variables: readonly Variable[]): string {
    const mapped = variables.map((v) => v.storage).find((s): s is FileStorage => s.kind === "file" && s.byteLength >= inlineBytes);
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

  #write(data: TypedArray, directory: string): Weights {
    const places = this.#written.get(data) ?? new Map<string, Weights>();
    this.#written.set(data, places);
    const known = places.get(directory);
    if (known) return known;
    const name = `weights-${this.#count++}.bin`;
    writeFileSync(join(directory, name), rawBytes(data));
    const remove = () => {
      places.delete(directory);
      rmSync(join(directory, name), { force: true });
    };
    const weights = { name, users: 0, remove };
    places.set(directory, weights);
    return weights;
  }

  #link(file: string, directory: string): Weights {
    // By identity, not by path: a checkpoint may be replaced in its place while a session maps the old one.
    const { dev, ino, size, mtimeNs } = statSync(file, { bigint: true });
    const key = [directory, dev, ino, size, mtimeNs].join("\0");
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
