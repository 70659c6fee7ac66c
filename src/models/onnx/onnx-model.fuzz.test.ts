import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { attempt, byteMutations, fuzzDirectory, mutated, numRuns, type Outcome, tally, timeout } from "../../../tests/fuzz.ts";
import { f32, i64, modelBytes, sampled, tensor } from "../../../tests/onnx-models.ts";
import { openSafetensors, readStorage } from "../../checkpoints/index.ts";
import { operatorNames, parseOnnx } from "../../onnx/decode/index.ts";
import { type HostTensor, hostTensor } from "../../runtime/index.ts";
import { openOnnxModel } from "./onnx-model.ts";

const directory = fuzzDirectory();

/** Opens the bytes and rebuilds their graph. No weight lies outside of the file's directory. */
function decodeOrRefuse(bytes: Uint8Array, feeds?: Record<string, HostTensor>): Outcome {
  const file = join(directory.path, "model.onnx");
  writeFileSync(file, bytes);
  return attempt({ names: file, bytes: bytes.length }, () => {
    const traced = openOnnxModel(file).trace(feeds);
    for (const { storage } of traced.graph.variables.keys())
      if (storage.kind === "file") expect(dirname(storage.file)).toBe(directory.path);
  });
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

test("any mutation of a real file is refused by name or decodes", { timeout }, () => {
  copyFileSync("tests/fixtures/onnx-gpt2-external/model.onnx_data", join(directory.path, "model.onnx_data"));
  const outcomes = tally();
  fc.assert(
    fc.property(fc.constantFrom(...fixtures.keys()), byteMutations, fc.boolean(), (index, mutations, sized) => {
      const { bytes, structure, feeds } = fixtures[index]!;
      outcomes.count(decodeOrRefuse(mutated(bytes, mutations, structure), sized ? feeds : undefined));
    }),
    { numRuns },
  );
  outcomes.expectBoth();
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
  const outcomes = tally();
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
        outcomes.count(decodeOrRefuse(modelBytes({ inputs, initializers: used, nodes: [node], outputs: ["z"], opset })));
      },
    ),
    { numRuns: numRuns * 4 },
  );
  outcomes.expectBoth(1 / 40);
});
