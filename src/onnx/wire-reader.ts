/** The fields of a protocol-buffer message, read one after another; the counterpart of `wire.ts`. Nothing is copied: bytes are views. */

const utf8 = new TextDecoder();

/** A field that was met: its number and its wire type. */
export interface Field {
  readonly number: number;
  readonly type: number;
}

/** Thrown where the bytes are no message; the caller knows which file they are from. */
export class WireError extends Error {}

export class WireReader {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  /** The next byte to read. */
  position: number;
  readonly end: number;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = start;
    this.end = end;
  }

  /** The next field, or undefined at the end of the message. Its value must be read or skipped before the next call. */
  next(): Field | undefined {
    if (this.position >= this.end) return undefined;
    const tag = this.#varint();
    const number = Math.floor(tag / 8);
    if (number < 1) throw new WireError(`byte ${this.position - 1} begins no field`);
    return { number, type: tag % 8 };
  }

  skip({ type }: Field): void {
    if (type === 0) this.#varint();
    else if (type === 1) this.#advance(8);
    else if (type === 2) this.#advance(this.#length());
    else if (type === 5) this.#advance(4);
    else throw new WireError(`byte ${this.position - 1} has a wire type that ONNX does not use`);
  }

  /** A signed integer of 64 bits; beyond 2⁵³ the nearest double. */
  int(field: Field): number {
    this.#expect(field, 0);
    return this.#varint();
  }

  /** Repeated integers: one, or a packed list. */
  ints(field: Field, into: number[]): void {
    if (field.type === 2) for (const part = this.message(field); part.position < part.end; ) into.push(part.#varint());
    else into.push(this.int(field));
  }

  float(field: Field): number {
    this.#expect(field, 5);
    this.#advance(4);
    return this.#view.getFloat32(this.position - 4, true);
  }

  double(): number {
    this.#advance(8);
    return this.#view.getFloat64(this.position - 8, true);
  }

  /** A signed integer of 64 bits, exactly. */
  bigint(): bigint {
    const start = this.position;
    const value = this.#varint();
    if (Number.isSafeInteger(value)) return BigInt(value);
    let exact = 0n;
    for (let i = start; i < this.position; i++) exact |= BigInt(this.bytes[i]! & 127) << BigInt(7 * (i - start));
    return BigInt.asIntN(64, exact);
  }

  floats(field: Field, into: number[]): void {
    if (field.type !== 2) {
      into.push(this.float(field));
      return;
    }
    const part = this.message(field);
    while (part.position < part.end) into.push(part.float({ number: field.number, type: 5 }));
  }

  string(field: Field): string {
    return utf8.decode(this.bytesOf(field));
  }

  /** A view, not a copy. */
  bytesOf(field: Field): Uint8Array {
    const { position, end } = this.message(field);
    return this.bytes.subarray(position, end);
  }

  /** The range of a nested message or of a byte string. */
  message(field: Field): WireReader {
    this.#expect(field, 2);
    const length = this.#length();
    const start = this.position;
    this.#advance(length);
    return new WireReader(this.bytes, start, start + length);
  }

  #length(): number {
    const length = this.#varint();
    if (length < 0 || length > this.end - this.position)
      throw new WireError(`byte ${this.position} announces ${length} bytes, but the message ends after ${this.end - this.position}`);
    return length;
  }

  #expect({ number, type }: Field, expected: number): void {
    if (type !== expected) throw new WireError(`field ${number} before byte ${this.position} has wire type ${type}, not ${expected}`);
  }

  #advance(count: number): void {
    if (count > this.end - this.position) throw new WireError(`the message ends within a field, at byte ${this.end}`);
    this.position += count;
  }

  #varint(): number {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.position >= this.end) throw new WireError(`the message ends within a number, at byte ${this.end}`);
      const byte = this.bytes[this.position++]!;
      const bits = byte & 127;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (byte < 128) return high === 0 ? low >>> 0 : (high | 0) * 2 ** 32 + (low >>> 0);
    }
    throw new WireError(`the number before byte ${this.position} is longer than 64 bits`);
  }
}
