import { elementCount, evaluateDim, Random, type Tensor } from "../../graph/index.ts";
import { type Device, type HostTensor, hostTensor } from "../../runtime/index.ts";
import type { ExportedOnnx } from "./export-onnx.ts";
import { type ExportableModel, exportGraphs } from "./graphs.ts";

/** How near an exported file comes to the model. */
export interface ExportCheck {
  /** Between the logits (of an encoder without a head: the states), over all places. */
  largestDifference: number;
  /** The largest magnitude that the model's own have. */
  largestValue: number;
  /** Rows of logits that were compared: one per token, or per sequence. */
  places: number;
  /** Share of the places whose largest logit is that of the same token or class. */
  sameChoice: number;
}

/**
 * Runs an exported file with plain ONNX Runtime, and the model itself on `device`, on one row of tokens.
 *
 * @param feeds further inputs of the file: an adapter's weights
 */
export async function checkExport(
  device: Device,
  model: ExportableModel,
  { file, part }: Pick<ExportedOnnx, "file" | "part">,
  ids: readonly number[],
  feeds: Readonly<Record<string, HostTensor>> = {},
): Promise<ExportCheck> {
  const traced = exportGraphs(model)[part]!;
  const inputs = Object.fromEntries([...traced.graph.inputs].map(([name, tensor]) => [name, sampleInput(name, tensor, ids)]));
  const [output, { shape }] = Object.entries(traced.outputs)[0]!;
  const program = await device.compile({ graph: traced.graph, outputs: { [output]: traced.outputs[output]! } });
  const expected = (await program.run(inputs))[output]!.data as Float32Array;
  await program.dispose();

  const session = await device.platform.ort.InferenceSession.create(file);
  const fed = Object.entries({ ...inputs, ...feeds }).map(([name, host]) => [name, device.tensor(host)] as const);
  const got = (await session.run(Object.fromEntries(fed), [output]))[output]!.data as Float32Array;
  await session.release();
  return compare(got, expected, shape.at(-1) as number);
}

/** Axes that are not the length of the sample. */
const sizes: Readonly<Record<string, number>> = {
  batch_size: 1,
  past_sequence_length: 0,
  past_decoder_sequence_length: 0,
  past_encoder_sequence_length: 0,
};

/** One row without padding and without a past. Floats, as a sound's or an encoder's, are random. */
function sampleInput(name: string, { dtype, shape }: Tensor, ids: readonly number[]): HostTensor {
  const known = new Map(shape.flatMap((d) => (typeof d === "number" ? [] : d.symbols)).map((s) => [s, sizes[s] ?? ids.length]));
  const size = shape.map((d) => evaluateDim(d, known)!);
  const count = elementCount(size);
  if (dtype === "int64")
    return hostTensor(
      "int64",
      size,
      BigInt64Array.from({ length: count }, (_, i) => BigInt(integerFor(name, i, ids))),
    );
  const random = new Random(count);
  return hostTensor(
    dtype,
    size,
    Float32Array.from({ length: count }, () => random.normal()),
  );
}

function integerFor(name: string, i: number, ids: readonly number[]): number {
  if (name === "input_ids") return ids[i]!;
  if (name === "position_ids") return i;
  return name === "token_type_ids" ? 0 : 1;
}

function compare(got: Float32Array, expected: Float32Array, width: number): ExportCheck {
  let [largestDifference, largestValue, same] = [0, 0, 0];
  for (let row = 0; row < expected.length; row += width) {
    let [best, ours] = [row, row];
    for (let i = row; i < row + width; i++) {
      const difference = Math.abs(got[i]! - expected[i]!);
      largestDifference = Math.max(largestDifference, difference);
      largestValue = Math.max(largestValue, Math.abs(expected[i]!));
      if (got[i]! > got[best]!) best = i;
      if (expected[i]! > expected[ours]!) ours = i;
    }
    if (best === ours) same++;
  }
  const places = expected.length / width;
  return { largestDifference, largestValue, places, sameChoice: same / places };
}
