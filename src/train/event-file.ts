import { closeSync, openSync, readdirSync, writeSync } from "node:fs";
import { join } from "node:path";
import crc32c from "crc-32/crc32c.js";
import { Wire } from "../onnx/wire.ts";

/** Names of TensorBoard's files in a run directory. They are numbered, since TensorBoard reads them in the order of their names. */
const eventFilePattern = /^events\.out\.tfevents\.(\d{10})\.espalier$/;

/** Fields of TensorFlow's event.proto and summary.proto. */
const event = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 };
const summary = { value: 1, tag: 1, simpleValue: 2 };
const sessionLog = { status: 1, start: 1 };

/**
 * Scalars of a run for TensorBoard: `tensorboard --logdir runs`. A resumed run opens a further file, whose first entry tells TensorBoard to forget
 * what the interrupted one wrote of later steps.
 */
export class EventFile {
  readonly path: string;
  readonly #descriptor: number;
  readonly #now: () => number;

  /** @param firstStep the first step that this process will write */
  constructor(directory: string, firstStep: number, now: () => number = Date.now) {
    const last = Math.max(0, ...readdirSync(directory).map((name) => Number(eventFilePattern.exec(name)?.[1] ?? 0)));
    this.path = join(directory, `events.out.tfevents.${String(last + 1).padStart(10, "0")}.espalier`);
    this.#now = now;
    this.#descriptor = openSync(this.path, "wx");
    this.#write(0, (wire) => wire.string(event.fileVersion, "brain.Event:2"));
    if (last > 0) this.#write(firstStep, (wire) => wire.message(event.sessionLog, () => wire.int(sessionLog.status, sessionLog.start)));
  }

  /** Adds finite values of one step under their tags. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const finite = Object.entries(values).filter(([, value]) => Number.isFinite(value));
    if (finite.length === 0) return;
    this.#write(step, (wire) =>
      wire.message(event.summary, () => {
        for (const [tag, value] of finite)
          wire.message(summary.value, () => {
            wire.string(summary.tag, tag);
            wire.float(summary.simpleValue, value);
          });
      }),
    );
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #write(step: number, content: (wire: Wire) => void): void {
    const wire = new Wire(256);
    wire.double(event.wallTime, this.#now() / 1000);
    if (step !== 0) wire.int(event.step, step); // zero is left out in this format
    content(wire);
    writeSync(this.#descriptor, record(wire.finish()));
  }
}

/** A TFRecord: length, its checksum, the bytes, their checksum; numbers are little-endian. */
function record(bytes: Uint8Array): Uint8Array {
  const framed = new Uint8Array(bytes.length + 16);
  const view = new DataView(framed.buffer);
  view.setBigUint64(0, BigInt(bytes.length), true);
  view.setUint32(8, masked(framed.subarray(0, 8)), true);
  framed.set(bytes, 12);
  view.setUint32(12 + bytes.length, masked(bytes), true);
  return framed;
}

/** The checksum as TFRecords hold it: rotated, so that the checksum of data with checksums in them stays one. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c.buf(bytes) >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
