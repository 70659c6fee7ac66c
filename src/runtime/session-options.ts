/** What sessions of every platform are told. */
import type { InferenceSession } from "onnxruntime-common";
import type { Traced } from "../graph/index.ts";

export function sessionOptions({ graph }: Traced): InferenceSession.SessionOptions {
  const widens = [...graph.variables.keys()].some((v) => v.frozen && v.constantDtype);
  return {
    graphOptimizationLevel: "all",
    // What goes wrong is thrown: ONNX Runtime need not print it too.
    logSeverityLevel: 4,
    // A plan of a run's whole memory stands beside the arena that the first run has filled: 3.5 GB instead of 2.2 for a step of SmolLM2-135M (measured).
    enableMemPattern: false,
    extra: {
      optimization: {
        // Folding would keep what is computed from a frozen weight, such as the float copy of a narrower one; small tables may be kept.
        constant_folding_max_output_size_in_bytes: "65536",
        // A weight that is widened for the forward pass and again for the backward one must not be kept in between.
        ...(widens && { disable_specified_optimizers: "CommonSubexpressionElimination" }),
      },
    },
  };
}
