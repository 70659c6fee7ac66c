import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { expectFalling, lossesWithLora } from "../../tests/models/adapt.ts";
import { changed, device, expectEqual, reference, run } from "../../tests/models/reference.ts";
import { type SymbolicDim, symbol, trace } from "../graph/index.ts";
import { type HostTensor, hostTensor } from "../runtime/index.ts";
import { imageClassification } from "../train/index.ts";
import { type ImageClassifier, loadCausalLM, loadImageClassifier, loadImageModel, saveModel } from "./index.ts";

const classifiers = ["vit-tiny", "deit-tiny", "deit-tiny-single", "dinov2-tiny", "dinov2-tiny-swiglu"];

describe.each(classifiers)("%s computes what transformers computes", (name) => {
  const { directory, tensor } = reference(name);
  const model = loadImageClassifier(directory).freeze();
  const feeds = { pixels: tensor("input.pixel_values") };

  test("logits, in one head or the mean of two", async () => {
    expect(model.labels).toEqual(["ant", "bee", "cat"]);
    expect(model.headIsFresh).toBe(false);
    const { logits } = await run(feeds, ({ pixels }) => ({ logits: model.forward(pixels) }));
    expectEqual(logits, tensor("logits"));
  });

  test("features, and the states of every layer", async () => {
    const features = await run(feeds, ({ pixels }) => {
      const { hidden, states } = model.encoder.forward(pixels);
      return { hidden, ...Object.fromEntries(states.map((state, i) => [`hidden_states.${i}`, state])) };
    });
    expect(Object.keys(features).length).toBeGreaterThan(2);
    for (const [key, values] of Object.entries(features)) expectEqual(values, tensor(key));
  });

  test("the encoder alone, read from a checkpoint with a head", async () => {
    const encoder = loadImageModel(directory).freeze();
    expectEqual((await run(feeds, ({ pixels }) => ({ hidden: encoder.forward(pixels).hidden }))).hidden, tensor("hidden"));
  });

  test("low-rank adapters on its attention learn", async () => {
    const adapted = loadImageClassifier(directory);
    const batch = { ...feeds, labels: hostTensor("int64", [2], BigInt64Array.of(2n, 0n)) };
    expectFalling(await lossesWithLora(adapted, ["query", "value"], imageClassification(adapted), batch));
  });
});

test("a checkpoint of a bare encoder gives its features, and a classifier with a fresh head", async () => {
  const { directory, tensor } = reference("vit-tiny-bare");
  const feeds = { pixels: tensor("input.pixel_values") };
  const encoder = loadImageModel(directory).freeze();
  expectEqual((await run(feeds, ({ pixels }) => ({ hidden: encoder.forward(pixels).hidden }))).hidden, tensor("hidden"));
  const labels = ["one", "two", "three", "four"];
  const classifier = loadImageClassifier(directory, labels);
  expect(classifier.headIsFresh).toBe(true);
  expect(classifier.labels).toEqual(labels);
  const { hidden, logits } = await run(feeds, ({ pixels }) => ({
    hidden: classifier.encoder.forward(pixels).hidden,
    logits: classifier.forward(pixels),
  }));
  expectEqual(hidden, tensor("hidden"));
  expect(logits!.shape).toEqual([2, 4]);
});

test("a saved classifier is the one that was loaded, also with interpolated places", async () => {
  for (const name of classifiers) {
    const { directory, tensor } = reference(name);
    const saved = mkdtempSync(join(tmpdir(), "espalier-"));
    try {
      const original = loadImageClassifier(directory);
      saveModel(saved, original, { source: directory });
      const again = loadImageClassifier(saved).freeze();
      expect(again.architecture).toBe(original.architecture);
      const { logits } = await run({ pixels: tensor("input.pixel_values") }, ({ pixels }) => ({ logits: again.forward(pixels) }));
      expectEqual(logits, tensor("logits"));
    } finally {
      rmSync(saved, { recursive: true });
    }
  }
});

test("the number of images may be left open", async () => {
  const { directory, tensor } = reference("dinov2-tiny");
  const model = loadImageClassifier(directory).freeze();
  const pixels = tensor("input.pixel_values");
  const [, ...size] = pixels.shape;
  const program = await device.compile(
    trace({ pixels: { dtype: "float32", shape: [symbol("batch"), ...size] } }, (inputs) => ({ logits: model.forward(inputs.pixels) })),
  );
  expectEqual((await program.run({ pixels })).logits as HostTensor, tensor("logits"));
});

describe("what is refused", () => {
  const trace1 = (model: ImageClassifier, ...shape: (number | SymbolicDim)[]) =>
    trace({ pixels: { dtype: "float32", shape } }, ({ pixels }) => ({ logits: model.forward(pixels) }));

  test("pixels of another size, unless places are interpolated, and of open height", () => {
    const vit = loadImageClassifier(reference("vit-tiny").directory);
    expect(() => trace1(vit, 1, 3, 24, 32)).toThrow(/made for images of 24×24 pixels .* of one of 32×24/);
    expect(() => trace1(vit, 1, 1, 24, 24)).toThrow(/takes pixels \[batch, 3, height, width\]/);
    const dinov2 = loadImageClassifier(reference("dinov2-tiny").directory);
    expect(() => trace1(dinov2, 1, 3, symbol("height"), 24)).toThrow(/as numbers/);
  });

  test("labels that the head was not trained for, and a new head without labels", async () => {
    expect(() => loadImageClassifier(reference("vit-tiny").directory, ["ant", "cat", "bee"])).toThrow(
      /trained for the labels ant, bee, cat/,
    );
    const unnamed = (config: Record<string, unknown>) => {
      delete config.id2label;
    };
    await changed("vit-tiny-bare", unnamed, (directory) => void expect(() => loadImageClassifier(directory)).toThrow(/names no classes/));
    await changed("vit-tiny", unnamed, (directory) =>
      expect(loadImageClassifier(directory).labels).toEqual(["LABEL_0", "LABEL_1", "LABEL_2"]),
    );
  });

  test("another task, a half-trained pair of heads, and widths that heads cannot share", async () => {
    expect(() => loadCausalLM(reference("vit-tiny").directory)).toThrow(
      /ViT checkpoint cannot be used as a language model.*a classifier of images/,
    );
    const single = (config: Record<string, unknown>) => {
      config.architectures = ["DeiTForImageClassification"];
    };
    await changed("deit-tiny", single, (directory) => void expect(() => loadImageClassifier(directory)).toThrow(/classifier\.weight/));
    const uneven = (config: Record<string, unknown>) => {
      config.num_attention_heads = 5;
    };
    await changed("dinov2-tiny", uneven, (directory) =>
      expect(() => loadImageModel(directory)).toThrow(/"hidden_size" \(32\) must be a multiple/),
    );
  });
});
