import { EspalierError } from "../../graph/errors.ts";
import { readFully } from "../../runtime/stored-values.ts";

const windowBytes = 64 * 1024;

/**
 * Reads little-endian values from a file one after the other, through a window of a few kilobytes. Every length that the file claims is compared
 * with what is left of it before anything is allocated, so that a damaged file costs no more memory than its own size.
 */
export class Cursor {
  /** Of the next byte. */
  position: number;
  /** What is being read, for messages. */
  subject = "the header";
  readonly size: number;
  readonly file: string;
  readonly #descriptor: number;
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  #start = 0;
  #at = 0;

  constructor(descriptor: number, size: number, file: string, position = 0) {
    this.#descriptor = descriptor;
    this.size = size;
    this.file = file;
    this.position = position;
  }

  u8(): number {
    return this.#take(1).getUint8(this.#at);
  }

  i8(): number {
    return this.#take(1).getInt8(this.#at);
  }

  u16(): number {
    return this.#take(2).getUint16(this.#at, true);
  }

  i16(): number {
    return this.#take(2).getInt16(this.#at, true);
  }

  u32(): number {
    return this.#take(4).getUint32(this.#at, true);
  }

  i32(): number {
    return this.#take(4).getInt32(this.#at, true);
  }

  f32(): number {
    return this.#take(4).getFloat32(this.#at, true);
  }

  f64(): number {
    return this.#take(8).getFloat64(this.#at, true);
  }

  u64(): bigint {
    return this.#take(8).getBigUint64(this.#at, true);
  }

  i64(): bigint {
    return this.#take(8).getBigInt64(this.#at, true);
  }

  /** A count of things that take `bytesEach` bytes or more in the rest of the file. */
  count(bytesEach: number): number {
    const count = this.u64();
    const left = this.size - this.position;
    if (count * BigInt(bytesEach) > BigInt(left)) {
      throw this.truncated(
        `${this.subject} announces ${count} entries of ${bytesEach} bytes or more, but ${left} bytes are left of the file's ${this.size}`,
      );
    }
    return Number(count);
  }

  /** A string with its length before it. */
  string(): string {
    const length = this.count(1);
    this.#take(length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.#window.subarray(this.#at, this.#at + length));
    } catch (cause) {
      throw this.damaged(`${this.subject} has a string that is not UTF-8 (at byte ${this.position - length})`, cause);
    }
  }

  /** Passes over bytes that must be there. */
  skip(bytes: number): void {
    this.#need(bytes);
    this.position += bytes;
  }

  damaged(what: string, cause?: unknown): EspalierError {
    return new EspalierError("checkpoint-header", `${this.file}: ${what}. The file is damaged or not GGUF: fetch or convert it again.`, {
      cause,
    });
  }

  truncated(what: string): EspalierError {
    return new EspalierError("checkpoint-truncated", `${this.file}: ${what}. The file is cut short or damaged: fetch it again.`);
  }

  #need(bytes: number): void {
    if (bytes > this.size - this.position)
      throw this.truncated(`${this.subject} needs ${bytes} bytes at byte ${this.position}, but the file has ${this.size}`);
  }

  /** Passes over the next `bytes` bytes, which are then in the window from `#at` on. */
  #take(bytes: number): DataView {
    if (this.position < this.#start || this.position + bytes > this.#start + this.#window.length) {
      this.#need(bytes);
      const length = Math.min(this.size - this.position, Math.max(bytes, windowBytes));
      // The old window is reused where it is large enough, and so is not garbage.
      if (this.#window.buffer.byteLength < length) {
        this.#window = new Uint8Array(length);
        this.#view = new DataView(this.#window.buffer);
      } else this.#window = new Uint8Array(this.#window.buffer, 0, length);
      this.#start = this.position;
      readFully(this.#descriptor, this.#window, this.#start, this.file);
    }
    this.#at = this.position - this.#start;
    this.position += bytes;
    return this.#view;
  }
}
