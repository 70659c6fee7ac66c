/** An {@link OnnxModel} as the models that objectives train: what its file asks for beside the tokens is made from them. */
import { type Dim, EspalierError, type Tensor } from "../../graph/index.ts";
import { cast, expand, fill, less, range, unsqueeze } from "../../ops/index.ts";
import type { OnnxModel, OnnxPort } from "./onnx-model.ts";

/** For `causalLanguageModel(…)`: next-token logits of right-padded rows without a past. The file's output `logits` [batch, time, vocabulary]. */
export function onnxLanguageModel(model: OnnxModel): {
  forward(inputs: { ids: Tensor }): { hidden: Tensor };
  logits(hidden: Tensor): Tensor;
} {
  return {
    // The file's graph goes as far as the logits: they stand for the hidden states, which only `logits` reads.
    forward: ({ ids }) => ({ hidden: logitsOf(model, ids, undefined) }),
    logits: (hidden) => hidden,
  };
}

/** For `sequenceClassification(…)`: the file's output `logits` [batch, labels] for right-padded rows of these lengths. */
export function onnxSequenceClassifier(model: OnnxModel): { forward(ids: Tensor, lengths: Tensor): Tensor } {
  return { forward: (ids, lengths) => logitsOf(model, ids, lengths) };
}

function logitsOf(model: OnnxModel, ids: Tensor, lengths: Tensor | undefined): Tensor {
  const ports = model.inputs;
  return model.forward(Object.fromEntries(ports.map((port) => [port.name, inputFor(port, model, ids, lengths)])), ["logits"]).logits!;
}

/** What a port of this name means to every exporter. */
function inputFor(port: OnnxPort, model: OnnxModel, ids: Tensor, lengths: Tensor | undefined): Tensor {
  const [batch, time] = ids.shape as [Dim, Dim];
  const row = () => unsqueeze(range(time), 0);
  switch (port.name) {
    case "input_ids":
      return cast(ids, port.dtype);
    case "attention_mask":
      return lengths ? cast(less(row(), unsqueeze(lengths, 1)), port.dtype) : fill([batch, time], 1, port.dtype);
    case "position_ids":
      return cast(expand(row(), [batch, time]), port.dtype);
    case "token_type_ids":
      return fill([batch, time], 0, port.dtype);
  }
  // Keys and values of earlier tokens: none.
  if (/^past|\.(key|value)s?$/.test(port.name) && port.shape.length === 4)
    return fill([batch, port.shape[1]!, 0, port.shape[3]!], 0, port.dtype);
  throw new EspalierError(
    "onnx-inputs",
    `${model.file}: the input "${port.name}" cannot be made from tokens. Fix it when the file is opened ({ fixed: { "${port.name}": … } }), or write an objective that calls model.forward with all inputs.`,
  );
}
