import type { DType } from "../../../graph/index.ts";
import type { NodeContext, Result, Rule, Rules } from "../context.ts";
import { content, Value } from "../value.ts";

function constant(n: NodeContext): Value {
  const tensor = n.constant("value");
  if (tensor) return tensor;
  const scalar = (dtype: DType, value: number | undefined) => value !== undefined && Value.known(content(dtype, [], [value]));
  const vector = (dtype: DType, values: readonly number[] | undefined) =>
    values !== undefined && Value.known(content(dtype, [values.length], values));
  const value =
    scalar("int64", n.int("value_int")) ||
    scalar("float32", n.float("value_float")) ||
    vector("int64", n.ints("value_ints")) ||
    vector("float32", n.floats("value_floats"));
  if (!value) throw n.fail("it holds no tensor of numbers");
  return value;
}

/** A branch that is known to be taken stands in the node's place. */
function conditional(n: NodeContext): readonly Result[] {
  const condition = n.number(0);
  if (condition === undefined)
    throw n.fail(
      `its condition "${n.node.inputs[0]}" is not known before the graph runs. Where it is an input of the file (such as use_cache_branch), give it as a constant: { fixed: { ${n.node.inputs[0]}: false } }`,
      "onnx-control-flow",
    );
  return n.branch(condition ? "then_branch" : "else_branch");
}

const refused: Rule = (n) => {
  throw n.fail(
    "loops have no gradient here: export the model so that they are unrolled, or without the part that loops",
    "onnx-control-flow",
  );
};

export const control: Rules = { Constant: constant, If: conditional, Loop: refused, Scan: refused, While: refused };
