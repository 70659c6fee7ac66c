/**
 * The protocol buffers' wire format: as much of it as an ONNX model needs. A general library costs more time to load than a model of a thousand
 * nodes takes to write here.
 */

const utf8 = new TextEncoder();

/** Writes the fields of a message, nested ones within. The numbers are those of onnx.proto. */
export class Wire {
  #buffer: Uint8Array;
  #length = 0;

  constructor(capacity = 1 << 16) {
    this.#buffer = new Uint8Array(capacity);
  }

  /** The bytes written; the writer must not be used afterwards. */
  finish(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  /** An integer of 64 bits. */
  int(field: number, value: number): void {
    this.#tag(field, 0);
    this.#integer(value);
  }

  ints(field: number, values: readonly number[]): void {
    for (const value of values) this.int(field, value);
  }

  float(field: number, value: number): void {
    this.#tag(field, 5);
    this.#reserve(4);
    new DataView(this.#buffer.buffer).setFloat32(this.#length, value, true);
    this.#length += 4;
  }

  double(field: number, value: number): void {
    this.#tag(field, 1);
    this.#reserve(8);
    new DataView(this.#buffer.buffer).setFloat64(this.#length, value, true);
    this.#length += 8;
  }

  floats(field: number, values: readonly number[]): void {
    for (const value of values) this.float(field, value);
  }

  string(field: number, value: string): void {
    this.#tag(field, 2);
    // Names are nearly always ASCII and short enough for one byte of length: written in place.
    const start = this.#length;
    if (value.length < 128) {
      this.#reserve(value.length + 1);
      const buffer = this.#buffer;
      buffer[start] = value.length;
      let i = 0;
      for (; i < value.length; i++) {
        const code = value.charCodeAt(i);
        if (code > 127) break;
        buffer[start + 1 + i] = code;
      }
      if (i === value.length) {
        this.#length = start + 1 + i;
        return;
      }
    }
    this.#bytes(utf8.encode(value));
  }

  strings(field: number, values: readonly string[]): void {
    for (const value of values) this.string(field, value);
  }

  bytes(field: number, value: Uint8Array): void {
    this.#tag(field, 2);
    this.#bytes(value);
  }

  /** A nested message, whose fields `write` writes. */
  message(field: number, write: () => void): void {
    this.#tag(field, 2);
    // The length is known afterwards: room for a small one is left, and the content moves up where it needs more.
    const start = this.#length;
    this.#reserve(1);
    this.#length++;
    write();
    const size = this.#length - start - 1;
    let digits = 1;
    for (let rest = size; rest >= 128; rest = Math.floor(rest / 128)) digits++;
    if (digits > 1) {
      this.#reserve(digits - 1);
      this.#buffer.copyWithin(start + digits, start + 1, this.#length);
    }
    this.#length = start;
    this.#integer(size);
    this.#length += size;
  }

  #tag(field: number, type: 0 | 1 | 2 | 5): void {
    this.#integer(field * 8 + type);
  }

  #integer(value: number): void {
    this.#reserve(10);
    const buffer = this.#buffer;
    if (value < 0) {
      // Two's complement of 64 bits, in ten groups of seven.
      let rest = BigInt.asUintN(64, BigInt(value));
      for (; rest >= 128n; rest >>= 7n) buffer[this.#length++] = Number(rest & 127n) | 128;
      buffer[this.#length++] = Number(rest);
      return;
    }
    let rest = value;
    for (; rest >= 128; rest = Math.floor(rest / 128)) buffer[this.#length++] = (rest % 128) | 128;
    buffer[this.#length++] = rest;
  }

  #bytes(value: Uint8Array): void {
    this.#integer(value.length);
    this.#reserve(value.length);
    this.#buffer.set(value, this.#length);
    this.#length += value.length;
  }

  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#buffer.length) return;
    const larger = new Uint8Array(Math.max(needed, this.#buffer.length * 2));
    larger.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = larger;
  }
}
