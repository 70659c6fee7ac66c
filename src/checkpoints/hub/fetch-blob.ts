/** One file from the Hub into the cache: continued where it broke off, and given its name only when size and hash are right. */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { EspalierError } from "../../graph/errors.ts";
import { quoteName } from "../safetensors-header.ts";
import { cacheFailure, type HubCache } from "./hub-cache.ts";
import { type HubConnection, HubFailure, type RemoteFile } from "./hub-connection.ts";

export interface BlobRequest {
  repo: string;
  commit: string;
  file: RemoteFile;
  /** Called with the number of the file's bytes that are there; it falls when a download must start again. */
  onBytes(done: number): void;
}

/**
 * Downloads `file` unless its blob is there. To be called while holding its lock.
 *
 * @throws EspalierError `hub-hash`, `hub-size` (and nothing of the file is kept), `hub-unreachable` (what came is kept), `disk-full`, `not-writable`,
 *   and the refusals of the Hub
 */
export async function fetchBlob(connection: HubConnection, cache: HubCache, request: BlobRequest): Promise<void> {
  const { file } = request;
  if (cache.hasBlob(file.hash, file.size)) return request.onBytes(file.size);
  const partial = cache.partial(file.hash);
  let handle: FileHandle | undefined;
  try {
    handle = await open(partial, "a+");
    await new Arrival(connection, handle, request).complete();
    await handle.datasync();
    await handle.close();
    handle = undefined;
    await rename(partial, cache.blob(file.hash));
  } catch (error) {
    await handle?.close();
    const refuted = error instanceof EspalierError && (error.code === "hub-hash" || error.code === "hub-size");
    if (refuted) await rm(partial, { force: true });
    throw cacheFailure(partial, error);
  }
}

/** The bytes of a file as they come. */
class Arrival {
  readonly #connection: HubConnection;
  readonly #handle: FileHandle;
  readonly #request: BlobRequest;
  #hash!: Hash;
  #done = 0;
  #furthest = 0;

  constructor(connection: HubConnection, handle: FileHandle, request: BlobRequest) {
    this.#connection = connection;
    this.#handle = handle;
    this.#request = request;
  }

  async complete(): Promise<void> {
    const { file, repo } = this.#request;
    const continued = await this.#takeUp();
    await this.#fetch();
    let got = this.#hash.digest("hex");
    if (got !== file.hash && continued) {
      // What lay there may have been of something else.
      await this.#startAgain();
      await this.#fetch();
      got = this.#hash.digest("hex");
    }
    if (got === file.hash) return;
    throw new EspalierError(
      "hub-hash",
      `${quoteName(file.name)} of ${repo} arrived with other bytes than the Hub lists: its ${algorithm(file)} should be ${file.hash}, and is ${got}. It was removed. Try again; if that fails, ask who runs the network or the mirror (HF_ENDPOINT).`,
    );
  }

  async #fetch(): Promise<void> {
    const { file } = this.#request;
    let before = this.#furthest;
    const headway = () => {
      const moved = this.#furthest > before;
      before = this.#furthest;
      return moved;
    };
    try {
      await this.#connection.persist(async () => {
        if (this.#done < file.size) await this.#receive();
      }, headway);
    } catch (error) {
      if (!(error instanceof HubFailure)) throw error;
      throw new EspalierError(
        error.code,
        `${quoteName(file.name)} of ${this.#request.repo} broke off after ${this.#done} of ${file.size} bytes: ${error.message} What has arrived is kept; the same command goes on from there.`,
        { cause: error },
      );
    }
  }

  /** Reads what an earlier attempt left. Returns whether there was anything. */
  async #takeUp(): Promise<boolean> {
    const { size } = await this.#handle.stat();
    if (size > this.#request.file.size) {
      await this.#startAgain();
      return false;
    }
    this.#restartHash();
    const piece = Buffer.alloc(1 << 20);
    while (this.#done < size) {
      const { bytesRead } = await this.#handle.read(piece, 0, Math.min(piece.length, size - this.#done), this.#done);
      if (bytesRead === 0) break;
      this.#count(piece.subarray(0, bytesRead));
    }
    return size > 0;
  }

  async #startAgain(): Promise<void> {
    await this.#handle.truncate(0);
    this.#done = 0;
    this.#restartHash();
    this.#request.onBytes(0);
  }

  async #receive(): Promise<void> {
    const { repo, commit, file } = this.#request;
    const { response, alive, stop } = await this.#connection.download(repo, commit, file.name, this.#done);
    try {
      if (response.status === 416) throw this.#wrongSize(`ends at or before byte ${this.#done}`);
      const range = /^bytes (\d+)-\d*\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
      if (response.status === 206 && Number(range?.[1]) !== this.#done)
        throw new HubFailure(`The server sends another part of the file than was asked for (${range?.[0] ?? "it does not say which"}).`);
      if (response.status !== 206 && this.#done > 0) await this.#startAgain(); // the server cannot continue
      const length = response.headers.get("content-length");
      const total = response.status === 206 ? range?.[2] : response.headers.has("content-encoding") ? null : length;
      if (total && total !== "*" && Number(total) !== file.size) throw this.#wrongSize(`has ${total}`);
      for await (const chunk of this.#body(response)) {
        alive();
        if (this.#done + chunk.length > file.size) throw this.#wrongSize("is longer");
        for (let written = 0; written < chunk.length; ) written += (await this.#handle.write(chunk, written)).bytesWritten;
        this.#count(chunk);
      }
      if (this.#done < file.size) throw new HubFailure("The server closed the connection.");
    } finally {
      stop();
    }
  }

  async *#body(response: Response): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    while (reader) {
      const piece = await reader.read().catch((cause) => {
        throw this.#connection.broken(cause);
      });
      if (piece.done) return;
      yield piece.value;
    }
  }

  #count(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#done += bytes.length;
    this.#furthest = Math.max(this.#furthest, this.#done);
    this.#request.onBytes(this.#done);
  }

  #restartHash(): void {
    const { file } = this.#request;
    this.#hash = createHash(algorithm(file) === "SHA-256" ? "sha256" : "sha1");
    if (algorithm(file) !== "SHA-256") this.#hash.update(`blob ${file.size}\0`);
  }

  #wrongSize(how: string): EspalierError {
    const { file, repo } = this.#request;
    return new EspalierError(
      "hub-size",
      `${quoteName(file.name)} of ${repo} should have ${file.size} bytes by the Hub's list, and ${how}. It was removed. Try again; if that fails, ask who runs the network or the mirror (HF_ENDPOINT).`,
    );
  }
}

const algorithm = ({ hash }: RemoteFile): string => (hash.length === 64 ? "SHA-256" : "git blob id");
