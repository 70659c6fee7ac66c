import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { vjp } from "../../src/autodiff/index.ts";
import { type DType, Graph, type Tensor, tracing } from "../../src/graph/index.ts";
import * as ops from "../../src/ops/index.ts";
import { expectClose, host, runOnce } from "./harness.ts";
import { providers } from "./providers.ts";

// Values and gradients by PyTorch in float64; fixtures/make-fixtures.py says how they were made.

interface Numbers {
  dtype: string;
  shape: number[];
  values: (number | boolean)[];
}
interface Case {
  name: string;
  op: string;
  // biome-ignore lint/suspicious/noExplicitAny: each operator has attributes of its own
  attributes: any;
  inputs: Record<string, Numbers>;
  output: Numbers;
  outputGradient: Numbers;
  gradients: Record<string, Numbers>;
}

type Translation = (inputs: Record<string, Tensor>, attributes: Case["attributes"]) => Tensor;

const convolution =
  (op: typeof ops.convTranspose2d): Translation =>
  ({ x, weight, bias }, a) =>
    op(x!, weight!, {
      bias,
      stride: a.stride,
      padding: a.padding,
      dilation: a.dilation,
      groups: a.groups,
      outputPadding: a.output_padding,
    });
const maxPool =
  (op: typeof ops.maxPool2d): Translation =>
  ({ x }, a) =>
    op(x!, a.kernel_size, { stride: a.stride, padding: a.padding });
const averagePool =
  (op: typeof ops.averagePool2d): Translation =>
  ({ x }, a) =>
    op(x!, a.kernel_size, { stride: a.stride, padding: a.padding, countPadding: a.count_include_pad });

const translations: Record<string, Translation> = {
  conv1d: convolution(ops.conv1d),
  conv2d: convolution(ops.conv2d),
  conv_transpose2d: convolution(ops.convTranspose2d),
  max_pool1d: maxPool(ops.maxPool1d),
  max_pool2d: maxPool(ops.maxPool2d),
  avg_pool1d: averagePool(ops.averagePool1d),
  avg_pool2d: averagePool(ops.averagePool2d),
  layer_norm: ({ x, weight, bias }, a) => ops.layerNorm(x!, weight!, bias, a.eps),
  rms_norm: ({ x, weight }, a) => ops.rmsNorm(x!, weight!, a.eps),
  group_norm: ({ x, weight, bias }, a) => ops.groupNorm(x!, a.num_groups, weight, bias, a.eps),
  gelu: ({ x }, a) => (a.approximate === "tanh" ? ops.geluTanh(x!) : ops.gelu(x!)),
  silu: ({ x }) => ops.silu(x!),
  softmax: ({ x }, a) => ops.softmax(x!, a.dim),
  log_softmax: ({ x }, a) => ops.logSoftmax(x!, a.dim),
  logsumexp: ({ x }, a) => ops.logSumExp(x!, a.dim),
  cumsum: ({ x }, a) => ops.cumSum(x!, a.dim),
  embedding: ({ ids, weight }) => ops.embedding(ids!, weight!),
  cross_entropy: ({ logits, target }, a) => {
    const options = { ignoreIndex: a.ignore_index, labelSmoothing: a.label_smoothing };
    if (a.reduction === "mean") return ops.crossEntropy(logits!, target!, options);
    const { losses } = ops.crossEntropyPerTarget(logits!, target!, options);
    return a.reduction === "sum" ? ops.sum(losses) : losses;
  },
  binary_cross_entropy_with_logits: ({ logits, target }, a) =>
    (a.reduction === "mean" ? ops.binaryCrossEntropy : ops.binaryCrossEntropyPerElement)(logits!, target!),
  mse_loss: ({ x, target }) => ops.meanSquaredError(x!, target!),
  kl_div_of_logits: ({ logits, target }, a) => ops.klDivergence(a.log_target ? ops.exp(target!) : target!, logits!),
  cosine_similarity: ({ a, b }, attributes) => ops.cosineSimilarity(a!, b!, attributes.dim, attributes.eps),
  scaled_dot_product_attention: ({ q, k, v, mask }, a) => {
    const hidden = a.is_causal ? ops.causalMask(q!.shape[2]!, k!.shape[2]!) : mask && ops.where(mask, 0, ops.hiddenScore);
    return ops.attention(q!, k!, v!, { mask: hidden });
  },
};

const { cases } = JSON.parse(readFileSync(new URL("../fixtures/ops.json", import.meta.url), "utf8")) as { cases: Case[] };

const dtypeOf = (n: Numbers): DType => (n.dtype === "float64" ? "float32" : (n.dtype as DType));
const feed = (n: Numbers) => host({ shape: n.shape, data: n.values.map(Number), dtype: dtypeOf(n) }, "float32");

describe.each(cases.map((c) => ({ title: `${c.op}: ${c.name}`, c })))("$title", ({ c }) => {
  test.each(providers)("values and gradients on %s", async (provider) => {
    const translation = translations[c.op];
    expect(translation, `a translation of ${c.op}`).toBeDefined();
    const graph = new Graph();
    const outputs = tracing(graph, () => {
      const inputs = Object.fromEntries(Object.entries(c.inputs).map(([k, n]) => [k, graph.input(k, dtypeOf(n), n.shape)]));
      const y = translation!(inputs, c.attributes);
      const upstream = graph.input("upstream", "float32", c.outputGradient.shape);
      const wrt = Object.keys(c.gradients);
      const gradients = vjp(
        [y],
        [upstream],
        wrt.map((k) => inputs[k]!),
      );
      return { y, ...Object.fromEntries(wrt.map((k, i) => [`d.${k}`, gradients[i]!])) };
    });
    const feeds = Object.fromEntries(Object.entries({ ...c.inputs, upstream: c.outputGradient }).map(([k, n]) => [k, feed(n)]));
    const results = await runOnce(provider, { graph, outputs }, feeds);
    const check = (name: string, expected: Numbers, tolerance: number) => {
      expect(results[name]!.shape, `shape of ${name}`).toEqual(expected.shape);
      expectClose(Array.from(results[name]!.data as Float32Array), expected.values.map(Number), tolerance, name);
    };
    check("y", c.output, 1e-5);
    for (const [k, g] of Object.entries(c.gradients)) check(`d.${k}`, g, 5e-5);
  });
});
