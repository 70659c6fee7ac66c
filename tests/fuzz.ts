/**
 * What every fuzz test of a parser shares: how inputs are broken, and what must hold of each. A parser gives a result or an EspalierError that names the
 * file, within a second and a few times the file's size.
 */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect } from "vitest";
import { EspalierError } from "../src/graph/index.ts";

/** Cases of each property. ESPALIER_FUZZ=10000 for the long run. */
export const numRuns = Number(process.env.ESPALIER_FUZZ ?? 500);
export const timeout = 60_000 + numRuns * 200;

/** A directory for the tests of one file. */
export function fuzzDirectory(): { readonly path: string } {
  const directory = { path: "" };
  beforeAll(() => {
    directory.path = realpathSync(mkdtempSync(join(tmpdir(), "espalier-fuzz-")));
  });
  afterAll(() => rmSync(directory.path, { recursive: true }));
  return directory;
}

export type Outcome = "succeeded" | "refused";

export interface Demands {
  /** What the message of a refusal must hold: the file, or its directory. */
  names: string;
  /** Size of the input. */
  bytes: number;
  /** Bytes of buffers that may be allocated. Default four times the input, and 64 KiB for what small things take whatever the input. */
  buffers?: number;
}

/** Runs one case. Anything but success or a typed refusal fails the test, and so does taking too long or too much. */
export function attempt(demands: Demands, run: () => unknown): Outcome {
  const finish = measure(demands);
  try {
    run();
    return finish();
  } catch (error) {
    return finish(error);
  }
}

/** {@link attempt} for what is asynchronous. */
export async function attemptAsync(demands: Demands, run: () => Promise<unknown>): Promise<Outcome> {
  const finish = measure(demands);
  try {
    await run();
    return finish();
  } catch (error) {
    return finish(error);
  }
}

function measure({ names, bytes, buffers = 4 * bytes + 65536 }: Demands): (error?: unknown) => Outcome {
  const before = { memory: process.memoryUsage(), processor: process.cpuUsage() };
  return (error) => {
    const { user, system } = process.cpuUsage(before.processor);
    const memory = process.memoryUsage();
    if (error !== undefined && !(error instanceof EspalierError)) throw error;
    if (error !== undefined) {
      expect(error.message).toContain(names);
      expect(error.message.length, "characters of the message").toBeLessThan(20_000);
    }
    // Time of the processor, because other work on the machine is nobody's hang.
    expect((user + system) / 1e6, "seconds of the processor").toBeLessThan(1);
    expect(memory.arrayBuffers - before.memory.arrayBuffers, "bytes of buffers").toBeLessThanOrEqual(buffers);
    // JSON becomes objects of many times its size; what the test's own machinery leaves behind is below the constant.
    expect(memory.heapUsed - before.memory.heapUsed, "bytes of objects").toBeLessThan(100 * bytes + 6.4e7);
    return error === undefined ? "succeeded" : "refused";
  };
}

/** Counts outcomes, so that a test can show that its property is not true for nothing. */
export function tally(): { count(outcome: Outcome): void; expectBoth(share?: number): void } {
  const outcomes = { succeeded: 0, refused: 0 };
  return {
    count: (outcome) => void outcomes[outcome]++,
    expectBoth(share = 1 / 50) {
      const least = share * (outcomes.succeeded + outcomes.refused);
      expect(outcomes.succeeded, "successes").toBeGreaterThan(least);
      expect(outcomes.refused, "refusals").toBeGreaterThan(least);
    },
  };
}

/** A place as a share of a length: fast-check's doubles would nearly all be next to 0. */
const share = fc.nat(1_000_000).map((n) => n / 1_000_001);
const place = fc.record({ at: share, structure: fc.nat(9).map((n) => n > 0) });
const edit = <K extends string>(kind: K, bytes: fc.Arbitrary<Uint8Array>) => fc.record({ kind: fc.constant(kind), place, bytes });

const ones = (power: number): Uint8Array => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE((1n << BigInt(power)) - 1n);
  return bytes;
};
const telling = ["../", "/", "0", "9", "-", ".", "e9", ",", ":", '"', "[", "]", "{", "}", " ", "\\"].map((text) => Buffer.from(text));

/** One change of a file's bytes. */
export const byteMutation = fc.oneof(
  edit("set", fc.uint8Array({ minLength: 1, maxLength: 1 })),
  // Numbers as large as they get, and characters that mean something in paths and JSON.
  edit("set", fc.constantFrom(Uint8Array.of(255, 255, 255, 255, 127), Uint8Array.of(255), Uint8Array.of(0), ...telling)),
  edit("set", fc.nat(64).map(ones)),
  edit("insert", fc.oneof(fc.uint8Array({ minLength: 1, maxLength: 3 }), fc.constantFrom(...telling))),
  edit("remove", fc.uint8Array({ minLength: 1, maxLength: 64 })),
  edit("cut", fc.constant(new Uint8Array())),
);
export const byteMutations = fc.array(byteMutation, { minLength: 1, maxLength: 3 });
type ByteMutation = typeof byteMutation extends fc.Arbitrary<infer T> ? T : never;

/** @param structure places of the bytes that are no weights, where changes do something: most of them go there. Default everywhere. */
export function mutated(original: Uint8Array, mutations: readonly ByteMutation[], structure?: readonly number[]): Buffer {
  let bytes = Buffer.from(original);
  for (const { kind, place, bytes: own } of mutations) {
    const index = place.structure && structure ? structure[Math.floor(place.at * structure.length)]! : Math.floor(place.at * bytes.length);
    const at = Math.min(index, bytes.length);
    if (kind === "set") bytes.set(own.subarray(0, bytes.length - at), at);
    else if (kind === "cut") bytes = bytes.subarray(0, at);
    else if (kind === "insert") bytes = Buffer.concat([bytes.subarray(0, at), own, bytes.subarray(at)]);
    else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + own.length)]);
  }
  return bytes;
}

/** Values that honest files do not have where these end up. A name in "@" stands for what `JSON.stringify` cannot write. */
const hostile = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, -1, 0, 1, 1.5, 1e9, 1e12, 2 ** 31, 2 ** 53, 1e-300, 1e308, [], {}, "", "x", "a".repeat(5000)),
  fc.constantFrom("../x", "/etc/passwd", "..\\x", "C:\\x", "a/../../x", "\u0000", "__proto__", "@deep", "@deepObject", "@infinite"),
  fc.constantFrom<unknown>(
    "(a+)+$",
    "(.*)*x",
    "(",
    "[",
    "\\p{",
    Array(1000).fill(1),
    Array(3).fill({}),
    Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`key${i}`, i])),
  ),
  fc.jsonValue(),
);
const replacements: Readonly<Record<string, string>> = {
  '"@deep"': "[".repeat(20_000) + "]".repeat(20_000),
  '"@deepObject"': '{"pretokenizers":['.repeat(5000) + "]}".repeat(5000),
  '"@infinite"': "1e999",
};

/** One change of a JSON text's values: the child at `path` becomes another, goes, or is there under one more key. */
export const jsonMutation = fc.record({
  kind: fc.constantFrom("replace", "replace", "replace", "remove", "add"),
  path: fc.array(fc.nat(), { minLength: 1, maxLength: 5 }),
  key: fc.oneof(fc.constantFrom("__proto__", "constructor", "0", "type", "toString"), fc.string()),
  value: hostile,
});
export const jsonMutations = fc.array(jsonMutation, { minLength: 1, maxLength: 3 });
type JsonMutation = typeof jsonMutation extends fc.Arbitrary<infer T> ? T : never;

/** @param text JSON of an object */
export function mutatedJson(text: string, mutations: readonly JsonMutation[]): string {
  const root = JSON.parse(text) as Record<string, unknown>;
  for (const { kind, path, key, value } of mutations) {
    let at = root;
    for (const [depth, step] of path.entries()) {
      const keys = Object.keys(at);
      if (keys.length === 0) break;
      const name = keys[step % keys.length]!;
      const child = at[name];
      if (depth === path.length - 1 || typeof child !== "object" || child === null) {
        if (kind === "remove") delete at[name];
        else {
          // A copy: the lists above are shared, and one would come to stand in itself.
          const own = structuredClone(value);
          const under = kind === "add" ? key : name;
          // `length` of a list cannot be defined anew, and JSON has no such key there.
          if (!(Array.isArray(at) && under === "length"))
            Object.defineProperty(at, under, { value: own, enumerable: true, configurable: true, writable: true });
        }
        break;
      }
      at = child as Record<string, unknown>;
    }
  }
  return Object.entries(replacements).reduce((json, [name, literal]) => json.replaceAll(name, () => literal), JSON.stringify(root));
}

/** A JSON text changed in its values, or now and then in its bytes. */
export const jsonChanges = (text: string): fc.Arbitrary<string | Uint8Array> =>
  fc.oneof<fc.MaybeWeightedArbitrary<string | Uint8Array>[]>(
    { weight: 3, arbitrary: jsonMutations.map((mutations) => mutatedJson(text, mutations)) },
    { weight: 1, arbitrary: byteMutations.map((mutations) => mutated(Buffer.from(text), mutations)) },
  );
