import { expect, test } from "vitest";
import { brokenRules } from "../scripts/rooms.ts";

const check = (file: string, target: string, typeOnly = false) => brokenRules(new Map([[file, [{ target, typeOnly }]]]));

test("a room may import those above it and itself", () => {
  expect(check("src/train/trainer.ts", "src/graph/index.ts")).toEqual([]);
  expect(check("src/train/trainer.ts", "src/train/step.ts")).toEqual([]);
});

test("a room may not import one below it, not even a type", () => {
  expect(check("src/ops/matmul.ts", "src/nn/index.ts")).toEqual(["src/ops/matmul.ts imports src/nn/index.ts, which stands below it"]);
  expect(check("src/ops/matmul.ts", "src/nn/index.ts", true)).toHaveLength(1);
});

test("rooms on one level do not know each other", () => {
  expect(check("src/serve/app.ts", "src/cli/main.ts")).toEqual(["src/serve/app.ts imports src/cli/main.ts, a neighbouring room"]);
});

test("only the two platform files import ONNX Runtime", () => {
  expect(check("src/runtime/node.ts", "onnxruntime-node")).toEqual([]);
  expect(check("src/nn/layers.ts", "onnxruntime-node")[0]).toContain("only src/runtime/node.ts and src/runtime/web.ts may");
  expect(check("src/nn/layers.ts", "onnxruntime-node", true)).toEqual([]);
});

test("what a browser loads reaches nothing of Node, however far away", () => {
  const imports = new Map([
    ["src/nn/index.ts", [{ target: "src/nn/layers.ts", typeOnly: false }]],
    ["src/nn/layers.ts", [{ target: "node:fs", typeOnly: false }]],
  ]);
  expect(brokenRules(imports)).toEqual([
    "a browser loads src/nn/index.ts, which reaches Node: src/nn/index.ts → src/nn/layers.ts → node:fs",
  ]);
});

test("a file outside of every room is refused", () => {
  expect(check("src/utils/x.ts", "zod")[0]).toContain("stands in no room");
});
