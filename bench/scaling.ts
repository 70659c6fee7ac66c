/**
 * The time of a LoRA step on the shape of SmolLM2-135M against the length of the sequences, the batch and the rank, and what the operation count predicts: the
 * operations that the step really computes, at the speed of the reference step of the same run.
 */
import { writeFileSync } from "node:fs";
import { lineChart } from "../src/cli/report/charts.ts";
import { countMatmulFlops } from "../src/ops/index.ts";
import { median, round, settle } from "./machine.ts";
import { randomCheckpoint } from "./random-checkpoint.ts";
import { layersOf, type StepSpec, smoke, steps } from "./shapes.ts";
import { openStep } from "./training-step.ts";

const reference = steps["smollm2-lora"];
const rankOf = (rank: number): StepSpec => ({ ...reference, lora: { ...reference.lora, rank } });

const series: Readonly<Record<string, readonly (readonly [number, StepSpec])[]>> = {
  length: [64, 128, 256, 512, 1024].map((time) => [time, { ...reference, time }]),
  batch: [1, 2, 4, 8, 16].map((batch) => [batch, { ...reference, batch }]),
  rank: [1, 4, 8, 16, 64].map((rank) => [rank, rankOf(rank)]),
};

/** Where a full run draws its chart. */
const chartFile = "docs/images/scaling.svg";

interface Measured {
  seconds: number;
  operations: number;
}

export async function benchScaling(options: { smoke: boolean; repeats: number }): Promise<Record<string, unknown>> {
  const small = (spec: StepSpec) => (options.smoke ? { ...smoke(spec), lora: spec.lora } : spec);
  const checkpoint = randomCheckpoint(reference.shape, layersOf(small(reference)), "float32");
  try {
    const figures: Record<string, Record<string, number>[]> = {};
    for (const [name, points] of Object.entries(series)) {
      const rows = [];
      for (const [value, spec] of options.smoke ? points.slice(0, 2) : points) {
        const { at, beside } = await besideReference(
          checkpoint.directory,
          small(spec),
          small(reference),
          options.smoke ? 1 : options.repeats,
        );
        const predicted = (beside.seconds * at.operations) / beside.operations;
        rows.push({
          value,
          seconds: round(at.seconds, 3),
          predictedSeconds: round(predicted, 3),
          timeToPrediction: round(at.seconds / predicted, 2),
          gflop: round(at.operations / 1e9, 1),
        });
        process.stderr.write(`${name} ${value}: ${JSON.stringify(rows.at(-1))}\n`);
      }
      figures[name] = rows;
    }
    const worst = Math.max(...Object.values(figures).flatMap((rows) => rows.map((row) => row.timeToPrediction!)));
    if (!options.smoke) writeFileSync(chartFile, await chart(figures));
    return {
      reference: `batch ${reference.batch} × ${reference.time}, rank ${reference.lora.rank}`,
      worstTimeToPrediction: worst,
      ...figures,
    };
  } finally {
    checkpoint.remove();
  }
}

/** Steps of the two in turn, so that a machine whose speed drifts is compared with itself. */
async function besideReference(
  directory: string,
  spec: StepSpec,
  other: StepSpec,
  repeats: number,
): Promise<{ at: Measured; beside: Measured }> {
  const own = await openStep(directory, spec);
  const theirs = await openStep(directory, other);
  const [seconds, ratios, references]: [number[], number[], number[]] = [[], [], []];
  for (let i = -1; i < repeats; i++) {
    await settle();
    const a = await own.step();
    await settle();
    const b = await theirs.step();
    if (i < 0) continue; // warms up
    seconds.push(a);
    references.push(b);
    ratios.push(a / b);
  }
  const beside = { seconds: median(references), operations: countMatmulFlops(theirs.traced) };
  const at = { seconds: median(ratios) * beside.seconds, operations: countMatmulFlops(own.traced) };
  await own.dispose();
  await theirs.dispose();
  return { at, beside };
}

/** Times of all three series by the operations of the step: they lie on one line, the prediction. */
function chart(figures: Readonly<Record<string, readonly Record<string, number>[]>>): Promise<string> {
  const all = Object.values(figures).flat();
  const byOperations = (rows: readonly Record<string, number>[], y: string) =>
    rows.map((row) => [row.gflop!, row[y]!] as const).sort(([a], [b]) => a - b);
  return lineChart({
    title: "Time of a LoRA step, SmolLM2-135M's shape",
    x: "GFLOP of a step",
    y: "seconds",
    logarithmic: ["x", "y"],
    series: [
      { name: "predicted", points: byOperations(all, "predictedSeconds"), as: "faint" },
      ...Object.entries(figures).map(([name, rows]) => ({
        name,
        points: byOperations(rows, "seconds"),
        as: "points" as const,
      })),
    ],
  });
}
