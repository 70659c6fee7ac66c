import { expect, test } from "vitest";
import type { NodeProto } from "./model.ts";
import { inWritingOrder } from "./order.ts";

const node = (name: string, ...input: string[]): NodeProto => ({ opType: "Add", domain: "", name, input, output: [name], attribute: [] });
const order = (nodes: NodeProto[], early = 0) =>
  inWritingOrder(nodes, early)
    .map(({ name }) => name)
    .join(" ");

test("backwards, and what nobody reads behind, in its order; early nodes stay in front", () => {
  const nodes = [node("w1"), node("w2"), node("a", "w1"), node("b", "a"), node("out1", "b"), node("c", "b", "w2"), node("out2", "c")];
  expect(order(nodes, 2)).toBe("w1 w2 c b a out1 out2");
});

test("what a branch reads is read", () => {
  const graph = { name: "then", node: [node("inner", "a")], initializer: [], input: [], output: [] };
  expect(order([node("a"), node("b"), { ...node("if", "b"), attribute: [{ name: "then_branch", graph }] }])).toBe("b a if");
});
