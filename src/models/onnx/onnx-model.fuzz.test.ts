import { copyFileSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { f32, i64, modelBytes, sampled, tensor } from "../../../tests/onnx-models.ts";
import { openSafetensors, readStorage } from "../../checkpoints/index.ts";
import { EspalierError } from "../../graph/index.ts";
import { operatorNames, parseOnnx } from "../../onnx/decode/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { openOnnxModel } from "./onnx-model.ts";

/** ESPALIER_FUZZ_RUNS=10000 for the long run. */
const numRuns = Number(process.env.ESPALIER_FUZZ_RUNS ?? 500);
const timeout = 60_000 + numRuns * 200;

let directory: string;
let file: string;
beforeAll(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "espalier-onnx-fuzz-")));
  file = join(directory, "model.onnx");
});
afterAll(() => rmSync(directory, { recursive: true }));

/**
 * Opens the bytes and rebuilds their graph: either works, or a typed error names the file. It takes no more than a second of the processor and no
 * buffers beyond a few times the file's size, and no weight lies outside of the file's directory.
 */
function decodeOrRefuse(bytes: Uint8Array, feeds?: Record<string, HostTensor>): "decoded" | "refused" {
  writeFileSync(file, bytes);
  const before = { buffers: process.memoryUsage().arrayBuffers, processor: process.cpuUsage() };
  let outcome: "decoded" | "refused" = "refused";
  try {
    const model = openOnnxModel(file);
    const traced = model.trace(feeds);
    for (const { storage } of traced.graph.variables.keys()) if (storage.kind === "file") expect(dirname(storage.file)).toBe(directory);
    outcome = "decoded";
  } catch (error) {
    if (!(error instanceof EspalierError)) throw error;
    expect(error.message).toContain(file);
  }
  const { user, system } = process.cpuUsage(before.processor);
  expect((user + system) / 1e6, "seconds of the processor").toBeLessThan(1);
  // 64 KiB for what small things take, whatever the file.
  expect(process.memoryUsage().arrayBuffers - before.buffers).toBeLessThan(4 * bytes.length + 65536);
  return outcome;
}

/** A fixture's bytes, the types of its inputs, and the places of its bytes that are no weights: there mutations do something. */
function original(name: string) {
  const folder = join("tests/fixtures", name);
  const bytes = readFileSync(join(folder, "model.onnx"));
  const { tensors } = openSafetensors(join(folder, "expected.safetensors"));
  const feeds = Object.fromEntries(
    [...tensors].filter(([key]) => key.startsWith("0.in.")).map(([key, s]) => [key.slice(5), hostTensor(s.dtype, s.shape, readStorage(s))]),
  );
  const isWeight = new Uint8Array(bytes.length);
  for (const { data } of parseOnnx(bytes, name).graph.initializers.values())
    if (data.kind === "raw") isWeight.fill(1, data.offset, data.offset + data.byteLength);
  const structure = Array.from(isWeight.keys()).filter((i) => !isWeight[i]);
  return { name, bytes, feeds, structure };
}

const fixtures = ["onnx-bert-fused", "onnx-llama-genai-int4", "onnx-bert-dynamo18", "onnx-gpt2-external"].map(original);

const place = fc.oneof(
  { weight: 9, arbitrary: fc.double({ min: 0, max: 1, noNaN: true }).map((at) => ({ structure: true, at })) },
  { weight: 1, arbitrary: fc.double({ min: 0, max: 1, noNaN: true }).map((at) => ({ structure: false, at })) },
);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("set" as const), place, bytes: fc.uint8Array({ minLength: 1, maxLength: 1 }) }),
  // Numbers as large as they get, and characters of paths and names.
  fc.record({
    kind: fc.constant("set" as const),
    place,
    bytes: fc.constantFrom(
      Uint8Array.of(255, 255, 255, 255, 127),
      Uint8Array.of(255),
      Uint8Array.of(0),
      Uint8Array.from(Buffer.from("../../")),
    ),
  }),
  fc.record({ kind: fc.constant("insert" as const), place, bytes: fc.uint8Array({ minLength: 1, maxLength: 3 }) }),
  fc.record({ kind: fc.constant("remove" as const), place, bytes: fc.constant(new Uint8Array()) }),
  fc.record({ kind: fc.constant("cut" as const), place, bytes: fc.constant(new Uint8Array()) }),
);

test("any mutation of a real file is refused by name or decodes", { timeout }, () => {
  copyFileSync("tests/fixtures/onnx-gpt2-external/model.onnx_data", join(directory, "model.onnx_data"));
  const outcomes = { decoded: 0, refused: 0 };
  fc.assert(
    fc.property(fc.constantFrom(...fixtures), fc.array(mutation, { maxLength: 3 }), fc.boolean(), (fixture, mutations, sized) => {
      let bytes: Uint8Array = Uint8Array.from(fixture.bytes);
      for (const { kind, place, bytes: own } of mutations) {
        const index = place.structure
          ? fixture.structure[Math.floor(place.at * fixture.structure.length)]
          : Math.floor(place.at * bytes.length);
        const at = Math.min(index ?? 0, bytes.length);
        if (kind === "set") bytes.set(own.subarray(0, bytes.length - at), at);
        else if (kind === "cut") bytes = bytes.slice(0, at);
        else bytes = Buffer.concat([bytes.subarray(0, at), own, bytes.subarray(kind === "remove" ? at + 1 : at)]);
      }
      outcomes[decodeOrRefuse(bytes, sized ? fixture.feeds : undefined)]++;
    }),
    { numRuns },
  );
  // Both happen, so the property is not true for nothing.
  expect(outcomes.decoded).toBeGreaterThan(numRuns / 20);
  expect(outcomes.refused).toBeGreaterThan(numRuns / 20);
});

test("arbitrary bytes", { timeout }, () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void decodeOrRefuse(bytes)),
    { numRuns },
  );
});

const constants: Record<string, HostTensor> = {
  scalar: f32([], 0.5),
  zero: i64([], 0),
  negative: i64([1], -1),
  sizes: i64([3], 2, 3, 4),
  huge: i64([2], 2 ** 40, 2 ** 52),
  extremes: tensor("int64", [2], [2 ** 62, -(2 ** 62)]),
  empty: i64([0]),
  vector: sampled([4]),
  matrix: sampled([4, 4]),
  kernel: sampled([3, 3, 1, 1]),
  bytes: tensor("uint8", [4, 1, 16], Array(64).fill(7)),
  flag: tensor("bool", [], [1]),
};
const inputs = {
  x: ["float32", 2, 3, 4],
  y: ["float32", "batch", "time", 4],
  ids: ["int64", "batch", "time"],
  mask: ["bool", 3, 4],
} as const;
const attributeNames = [
  "axis",
  "axes",
  "keepdims",
  "to",
  "perm",
  "split",
  "num_outputs",
  "num_heads",
  "kv_num_heads",
  "q_num_heads",
  "block_size",
  "bits",
  "K",
  "N",
  "group",
  "num_groups",
  "kernel_shape",
  "pads",
  "strides",
  "dilations",
  "start",
  "end",
  "starts",
  "ends",
  "equation",
  "mode",
  "epsilon",
  "alpha",
  "k",
  "blocksize",
  "batch_dims",
  "reduction",
  "auto_pad",
  "upper",
  "interleaved",
  "do_rotary",
  "unidirectional",
];
const integer = fc.oneof(fc.integer({ min: -3, max: 5 }), fc.constantFrom(2 ** 31 - 1, -(2 ** 31), 2 ** 40, 0));
const attribute = fc.oneof(
  integer,
  fc.array(integer, { maxLength: 5 }),
  fc.constantFrom("SAME_UPPER", "reflect", "abc,cd->abd", "->", "add", ""),
  fc.double({ noNaN: true }).map((float) => ({ float })),
);

test("any operator with any inputs and attributes", { timeout }, () => {
  const outcomes = { decoded: 0, refused: 0 };
  const operands = ["", ...Object.keys(inputs), ...Object.keys(constants)];
  fc.assert(
    fc.property(
      fc.constantFrom(...operatorNames),
      fc.array(fc.constantFrom(...operands), { maxLength: 7 }),
      fc.array(fc.tuple(fc.constantFrom(...attributeNames), attribute), { maxLength: 5 }),
      fc.constantFrom(9, 11, 13, 18, 21, 23),
      (name, operands, attrs, opset) => {
        const [op, domain = ""] = name.split(".").reverse() as [string, string?];
        const node = {
          op,
          domain: name.includes(".") ? `com.${domain}` : "",
          in: operands,
          out: ["z", "w"],
          attrs: Object.fromEntries(attrs),
        };
        const used = Object.fromEntries(Object.entries(constants).filter(([key]) => operands.includes(key)));
        outcomes[decodeOrRefuse(modelBytes({ inputs, initializers: used, nodes: [node], outputs: ["z"], opset }))]++;
      },
    ),
    { numRuns: numRuns * 4 },
  );
  expect(outcomes.decoded).toBeGreaterThan(numRuns / 10);
  expect(outcomes.refused).toBeGreaterThan(numRuns);
});
