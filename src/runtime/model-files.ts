import { copyFileSync, linkSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import type { InferenceSession } from "onnxruntime-common";
import { EspalierError, type FileStorage, type Traced, type TypedArray, type Variable } from "../graph/index.ts";
import { type EncodedModel, type EncodeOptions, type ExternalLocation, rawBytes } from "../onnx/index.ts";

/** Frozen values smaller than this are written into the model file itself. */
const inlineBytes = 64 * 1024;

/**
 * Weights as ONNX external data. ONNX Runtime maps them from their file, so that a base model costs no memory of its own and sessions share it;
 * but the model file must lie in the same directory, and symbolic links are refused. So each scratch directory holds hard links.
 */
export class ModelFiles {
  readonly #scratch = new Map<string, string>();
  readonly #linked = new Map<string, string>();
  /** Large in-memory constants, written once and shared by all sessions. */
  readonly #written = new WeakMap<TypedArray, Map<string, string>>();
  #count = 0;

  async open(
    traced: Traced,
    encodeWith: (files: Pick<EncodeOptions, "external">) => EncodedModel,
    create: (path: string) => Promise<InferenceSession>,
  ): Promise<{ session: InferenceSession; model: EncodedModel }> {
    const directory = this.#directoryFor([...traced.graph.variables.keys()]);
    const model = encodeWith({ external: (variable) => this.#locate(variable, directory) });
    const path = join(directory, `model-${this.#count++}.onnx`);
    writeFileSync(path, model.bytes);
    try {
      return { session: await create(path), model };
    } catch (cause) {
      throw new EspalierError("session", `ONNX Runtime refused the compiled graph: ${cause instanceof Error ? cause.message : cause}`, {
        cause,
      });
    } finally {
      rmSync(path, { force: true });
    }
  }

  /** A scratch directory on the file system of the mapped weights: hard links do not cross file systems. */
  #directoryFor(variables: readonly Variable[]): string {
    const mapped = variables.map((v) => v.storage).find((s): s is FileStorage => s.kind === "file" && s.byteLength >= inlineBytes);
    const sameDisk = !mapped || statSync(mapped.file).dev === statSync(tmpdir()).dev;
    const parent = sameDisk ? tmpdir() : dirname(mapped.file);
    const known = this.#scratch.get(parent);
    if (known) return known;
    const directory = makeScratch(parent) ?? makeScratch(tmpdir())!;
    this.#scratch.set(parent, directory);
    return directory;
  }

  #locate(variable: Variable, directory: string): ExternalLocation | undefined {
    const { storage } = variable;
    if (storage.kind === "file") {
      if (storage.byteLength < inlineBytes) return undefined;
      return { location: this.#link(storage.file, directory), offset: storage.offset, byteLength: storage.byteLength };
    }
    if (storage.data.byteLength < inlineBytes) return undefined;
    const places = this.#written.get(storage.data) ?? new Map<string, string>();
    let location = places.get(directory);
    if (!location) {
      location = `weights-${this.#count++}.bin`;
      writeFileSync(join(directory, location), rawBytes(storage.data));
      this.#written.set(storage.data, places.set(directory, location));
    }
    return { location, offset: 0, byteLength: storage.data.byteLength };
  }

  #link(file: string, directory: string): string {
    const key = `${directory}\0${file}`;
    const known = this.#linked.get(key);
    if (known) return known;
    const name = `${this.#count++}-${basename(file)}`;
    try {
      linkSync(file, join(directory, name));
    } catch {
      // Another file system, or one without hard links: a copy costs disk and time but is as right.
      copyFileSync(file, join(directory, name));
    }
    this.#linked.set(key, name);
    return name;
  }
}

const scratchDirectories = new Set<string>();
const scratchName = /^\.espalier-(\d+)-/;

function makeScratch(parent: string): string | undefined {
  try {
    removeAbandoned(parent);
    const directory = mkdtempSync(join(parent, `.espalier-${process.pid}-`));
    if (scratchDirectories.size === 0) {
      process.on("exit", () => {
        for (const d of scratchDirectories) rmSync(d, { recursive: true, force: true });
      });
    }
    scratchDirectories.add(directory);
    return directory;
  } catch {
    return undefined;
  }
}

/** Removes what killed processes left behind. */
function removeAbandoned(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = Number(scratchName.exec(name)?.[1]);
    if (pid && !isRunning(pid)) rmSync(join(parent, name), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
