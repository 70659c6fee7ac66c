import { EspalierError } from "../graph/index.ts";
import type { HostTensor } from "../runtime/index.ts";

/**
 * The likeliest letter or blank of every frame, with repetitions joined and blanks left out: the best path of Graves et al., "Connectionist Temporal
 * Classification".
 *
 * @param logits float32 [batch, frames, vocabulary]
 * @param lengths int64 [batch], the frames of each sound; by default all
 * @returns the ids of each sound's letters
 */
export function ctcBestPath(logits: HostTensor, blank: number, lengths?: HostTensor): number[][] {
  const [batch, frames, vocabulary] = logits.shape as [number, number, number];
  if (logits.shape.length !== 3 || blank < 0 || blank >= vocabulary || (lengths && lengths.data.length !== batch)) {
    throw new EspalierError(
      "shape-mismatch",
      `A best path needs logits [batch, frames, vocabulary], one length per sound and a blank of the vocabulary; there are logits [${logits.shape.join(", ")}], the blank ${blank}${lengths ? ` and ${lengths.data.length} lengths` : ""}.`,
    );
  }
  const data = logits.data as Float32Array;
  return Array.from({ length: batch }, (_, row) => {
    const ids: number[] = [];
    let before = blank;
    for (let t = 0; t < (lengths ? Number(lengths.data[row]) : frames); t++) {
      const frame = data.subarray((row * frames + t) * vocabulary, (row * frames + t + 1) * vocabulary);
      const id = frame.reduce((best, value, i) => (value > frame[best]! ? i : best), 0);
      if (id !== before && id !== blank) ids.push(id);
      before = id;
    }
    return ids;
  });
}
