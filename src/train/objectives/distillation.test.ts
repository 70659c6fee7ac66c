/** Distillation in training: a student with its projection, and a classifier. */
import { afterAll, expect, test } from "vitest";
import { trace } from "../../graph/index.ts";
import { DecoderForSequenceClassification, loadCausalLM, loadSequenceClassifier } from "../../models/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { adamW } from "../optimizers/index.ts";
import { train } from "../trainer.ts";
import { distilledClassification, distilledLanguageModel, sequenceClassification } from "./index.ts";

const fixture = (name: string) => new URL(`../../../tests/fixtures/${name}`, import.meta.url).pathname;
const device = cpu({ threads: 1 });
afterAll(() => device.dispose());

const int64 = (shape: number[], value: (i: number) => number) =>
  hostTensor(
    "int64",
    shape,
    BigInt64Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => BigInt(value(i))),
  );
const source = (feeds: Record<string, ReturnType<typeof int64>>) => ({
  batchesPerEpoch: 1,
  batch: () => ({ feeds, tokens: 1, examples: 1, description: "the batch" }),
});

test("a language model comes near its teacher, the projection is trained with it, and the teacher stays", async () => {
  const [student, teacher] = [loadCausalLM(fixture("llama-tiny")), loadCausalLM(fixture("decoder-qwen2"))];
  const states = { layers: [["model.layers.1", "model.layers.2"]] } as const;
  const objective = distilledLanguageModel(student, teacher, { alpha: 0, classes: 96, states });
  const [projection] = objective.parameters!;
  const before = Float32Array.from(device.read(projection!).data as Float32Array);
  const kept = Float32Array.from(device.read(teacher.parameters()[0]!).data as Float32Array);
  const ids = int64([4, 8], (i) => 3 + ((i * 37) % 90));
  const losses: number[] = [];
  await train({
    model: student,
    objective,
    data: source({ ids, targets: int64([4, 8], (i) => (i % 8 === 7 ? -100 : 3 + (((i + 1) * 37) % 90))) }),
    device,
    optimizer: adamW({ learningRate: 1e-2 }),
    steps: 40,
    onStep: ({ loss }) => void losses.push(loss),
  });
  expect(losses.at(-1)).toBeLessThan(losses[0]! / 2);
  expect(device.read(projection!).data).not.toEqual(before);
  expect(device.read(teacher.parameters()[0]!).data).toEqual(kept);
});

test("a classifier: a teacher that says the same adds nothing, and another one is followed", async () => {
  const load = () => loadSequenceClassifier(fixture("llama-tiny"), ["a", "b", "c"], { seed: 1 });
  const other = loadSequenceClassifier(fixture("llama-tiny"), ["a", "b", "c"], { seed: 2 });
  const feeds = {
    ids: int64([5, 6], (i) => 3 + ((i * 29) % 90)),
    lengths: int64([5], (i) => 2 + i),
    labels: int64([5], (i) => (i === 4 ? -100 : i % 3)),
  };
  const lossOf = async (objective: ReturnType<typeof sequenceClassification>) => {
    const program = await device.compile(
      trace(feeds, (inputs) => {
        const { total, weight } = objective.trace(inputs);
        return { total, weight };
      }),
    );
    const { total, weight } = await program.run(feeds);
    await program.dispose();
    expect(weight!.data[0]).toBe(4);
    return total!.data[0] as number;
  };
  const model = load();
  const hard = await lossOf(sequenceClassification(model));
  const states = { layers: [["model.layers.0", "model.layers.0"]] } as const;
  expect(await lossOf(distilledClassification(model, load(), { alpha: 0.25, states }))).toBeCloseTo(hard / 4, 5);
  expect(await lossOf(distilledClassification(model, other, { alpha: 1 }))).toBeCloseTo(hard, 5);

  const student = load();
  expect(student).toBeInstanceOf(DecoderForSequenceClassification);
  const objective = distilledClassification(student, other, { alpha: 0 });
  const before = await lossOf(objective);
  await train({ model: student, objective, data: source(feeds), device, optimizer: adamW({ learningRate: 5e-3 }), steps: 30 });
  expect(await lossOf(objective)).toBeLessThan(before / 4);
});
