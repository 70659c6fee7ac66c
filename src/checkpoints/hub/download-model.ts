/** Models by their names on the Hugging Face Hub, kept in the cache that Python's tools share. */
import { join } from "node:path";
import { EspalierError } from "../../graph/errors.ts";
import { withLock } from "./cache-lock.ts";
import { fetchBlob } from "./fetch-blob.ts";
import { cacheFailure, HubCache } from "./hub-cache.ts";
import { HubConnection, HubFailure, type Listing, type RemoteFile } from "./hub-connection.ts";
import { type HubEnvironment, hubEnvironment } from "./hub-environment.ts";
import { type HubId, requireHubId } from "./hub-id.ts";
import { chooseWeights, companionFiles, shardsOf } from "./wanted-files.ts";

/** In bytes, over the files that had to be fetched; what an interrupted download left counts as done. */
export interface DownloadProgress {
  file: string;
  fileDone: number;
  fileTotal: number;
  done: number;
  total: number;
}

export interface DownloadOptions {
  /** Branch, tag or commit; it may stand in the name as well (default: main). */
  revision?: string;
  /** A GGUF file of the repository; it may stand in the name as well. */
  file?: string;
  /** In place of HF_HUB_CACHE or `$HF_HOME/hub`. */
  cache?: string;
  /** In place of HF_ENDPOINT. */
  endpoint?: string;
  /** In place of HF_TOKEN or the file `$HF_HOME/token`. */
  token?: string;
  /** Seconds without a byte after which a connection counts as broken (default: 30). */
  timeout?: number;
  signal?: AbortSignal;
  onProgress?(progress: DownloadProgress): void;
  /** What the user should know, such as that a cached copy is used because the Hub cannot be reached. */
  onNote?(note: string): void;
}

/**
 * Fetches what a model needs, unless it is there: configuration, tokenizer, chat template, licence, and the weights as safetensors or GGUF;
 * pickles never. Whoever downloaded it before, with Espalier or with Python's tools, need not again: the cache is theirs too.
 *
 * With HF_HUB_OFFLINE=1 nothing is asked; without a connection the cached copy is used, and `onNote` is told.
 *
 * @param name `org/name`, `org/name@revision` or `org/name/file.gguf`
 * @returns absolute path for `openCheckpoint` and the loaders: the directory of the snapshot, or the GGUF file
 * @throws EspalierError `hub-id`, `hub-missing`, `hub-gated`, `hub-token`, `hub-forbidden`, `hub-revision`, `hub-file-missing`, `hub-which-file`,
 *   `hub-no-model`, `checkpoint-pickle`, `checkpoint-index`, `hub-unreachable`, `hub-offline`, `hub-answer`, `hub-hash`, `hub-size`, `disk-full`, `not-writable`
 */
export async function downloadModel(name: string, options: DownloadOptions = {}): Promise<string> {
  const id = requireHubId(name, options);
  const environment = hubEnvironment(options);
  const cache = new HubCache(environment.cache, id.repo);
  if (environment.offline) return cachedModel(id, cache, "HF_HUB_OFFLINE is set, so that nothing is fetched");
  let listing: Listing;
  try {
    const known = cache.commitOf(id.revision ?? "main") !== undefined; // then one more attempt is enough
    listing = await new HubConnection(environment, options).list(id.repo, id.revision, known ? 2 : 3);
  } catch (error) {
    if (!(error instanceof HubFailure)) throw error;
    const path = cachedModel(id, cache, error.message);
    options.onNote?.(`${error.message} The copy of ${id.repo} in ${cache.root} is used.`);
    return path;
  }
  return new Fetch(id, cache, environment, listing, options).run();
}

/** The model as it is in the cache. `why` the Hub is not asked. */
function cachedModel(id: HubId, cache: HubCache, why: string): string {
  const where = describe(id);
  const commit = cache.commitOf(id.revision ?? "main");
  const missing = (what: string) =>
    new EspalierError(
      "hub-offline",
      `${where} cannot be opened: ${why.replace(/\.$/, "")}; and ${what}. Go online once, or copy its files here and give their directory.`,
    );
  if (commit === undefined) throw missing(`it is not in the cache (${cache.root})`);
  const root = cache.snapshot(commit);
  let names: Set<string>;
  try {
    names = new Set(cache.files(commit));
  } catch {
    throw missing(`its snapshot is not in the cache (${root})`);
  }
  if (id.file !== undefined && !names.has(id.file)) throw missing(`the file is not in the cache (${root})`);
  if (id.file !== undefined) return join(root, id.file);
  try {
    const chosen = chooseWeights(where, names);
    if ("gguf" in chosen) return join(root, chosen.gguf);
    if (chosen.index !== undefined) shardsOf(join(root, chosen.index), where, names);
    return root;
  } catch (error) {
    if (!(error instanceof EspalierError) || /^(hub-which-file|checkpoint-pickle)$/.test(error.code)) throw error;
    throw missing(`only a part of it is in the cache (${root})`);
  }
}

const describe = ({ repo, revision, file }: HubId): string =>
  `${repo}${file === undefined ? "" : `/${file}`}${revision === undefined ? "" : `@${revision}`}`;

/** Files fetched at a time. */
const parallel = 4;

class Fetch {
  readonly #id: HubId;
  readonly #where: string;
  readonly #cache: HubCache;
  readonly #connection: HubConnection;
  readonly #listing: Listing;
  readonly #options: DownloadOptions;

  /** Ends all transfers when one has failed; what has arrived is kept. */
  readonly #halt = new AbortController();
  readonly #signal: AbortSignal;

  constructor(id: HubId, cache: HubCache, environment: HubEnvironment, listing: Listing, options: DownloadOptions) {
    this.#id = id;
    this.#where = describe({ ...id, file: undefined });
    this.#cache = cache;
    this.#signal = options.signal ? AbortSignal.any([options.signal, this.#halt.signal]) : this.#halt.signal;
    this.#connection = new HubConnection(environment, { ...options, signal: this.#signal });
    this.#listing = listing;
    this.#options = options;
  }

  async run(): Promise<string> {
    const { commit, files } = this.#listing;
    const names = new Set(files.keys());
    const root = this.#cache.snapshot(commit);
    const chosen = this.#id.file === undefined ? chooseWeights(this.#where, names) : { gguf: this.#id.file };
    if ("gguf" in chosen) {
      if (!names.has(chosen.gguf))
        throw new EspalierError(
          "hub-file-missing",
          `${this.#where} has no file ${chosen.gguf}. Its GGUF files: ${[...names].filter((n) => /\.gguf$/i.test(n)).join(", ") || "none"}.`,
        );
      await this.#get([chosen.gguf]);
    } else {
      if (chosen.index !== undefined) await this.#get([chosen.index]);
      const shards = chosen.index === undefined ? [] : shardsOf(join(root, chosen.index), this.#where, names);
      await this.#get([...companionFiles(names), ...chosen.weights, ...shards]); // weights last: where they are, all is
    }
    this.#cache.setCommit(this.#id.revision ?? "main", commit);
    return "gguf" in chosen ? join(root, chosen.gguf) : root;
  }

  /** Brings files into the snapshot, some at a time, in this order. */
  async #get(names: readonly string[]): Promise<void> {
    const { commit } = this.#listing;
    const files = names.map((name) => this.#listing.files.get(name)!).filter(({ name, size }) => !this.#cache.has(commit, name, size));
    if (files.length === 0) return;
    this.#cache.prepare();
    const absent = files.filter(({ hash, size }) => !this.#cache.hasBlob(hash, size));
    this.#cache.checkSpace(absent);
    const progress = this.#progress(absent);
    const queue = files.values();
    const failures: unknown[] = [];
    const work = async () => {
      for (const file of queue) {
        if (failures.length > 0) return;
        await this.#getOne(file, progress).catch((error) => {
          failures.push(error);
          this.#halt.abort();
        });
      }
    };
    await Promise.all(Array.from({ length: parallel }, work));
    if (failures.length > 0) throw failures[0];
  }

  async #getOne(file: RemoteFile, progress: (file: RemoteFile, done: number) => void): Promise<void> {
    const { commit } = this.#listing;
    if (!this.#cache.hasBlob(file.hash, file.size)) {
      const request = { repo: this.#id.repo, commit, file, onBytes: (done: number) => progress(file, done) };
      const path = this.#cache.lock(file.hash);
      const onWait = () => this.#options.onNote?.(`Another process downloads ${file.name} of ${this.#id.repo}; waiting for it.`);
      await withLock(path, () => fetchBlob(this.#connection, this.#cache, request), { onWait, signal: this.#signal }).catch((cause) => {
        throw cacheFailure(path, cause);
      });
    }
    this.#cache.place(commit, file.name, file.hash);
  }

  #progress(files: readonly RemoteFile[]): (file: RemoteFile, done: number) => void {
    const total = files.reduce((sum, { size }) => sum + size, 0);
    const byFile = new Map<string, number>();
    let done = 0;
    return ({ name, size }, fileDone) => {
      done += fileDone - (byFile.get(name) ?? 0);
      byFile.set(name, fileDone);
      this.#options.onProgress?.({ file: name, fileDone, fileTotal: size, done, total });
    };
  }
}
