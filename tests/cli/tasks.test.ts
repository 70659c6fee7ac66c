/** Every task of the table: trained by the command, measured again by eval to what train reported, asked by predict, and refused where it does not fit. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { readPeftAdapter } from "../../src/checkpoints/index.ts";
import { espalier, refusal, scratch, summary } from "./command.ts";
import { writeBert, writePictures, writeT5, writeTone, writeVit, writeWav2Vec2 } from "./task-models.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const lines = (name: string, records: readonly unknown[]) => {
  writeFileSync(at(name), records.map((record) => JSON.stringify(record)).join("\n"));
  return at(name);
};

const people = ["ada", "bob", "eve"];
const verbs = ["sees", "likes", "knows"];
const places = ["rome", "oslo"];
const words = [...people, ...verbs, ...places, "in", "the", "##s", "sun", "rain", "good", "bad"];
const bert = writeBert(at("bert"), words);
const decoder = writeTinyModel(at("decoder"));

/** Sentences such as "ada sees bob in rome". */
const sentences = Array.from({ length: 54 }, (_, i) => {
  const [a, b, verb, place] = [
    people[i % 3]!,
    people[(i + 1 + Math.floor(i / 27)) % 3]!,
    verbs[Math.floor(i / 3) % 3]!,
    places[Math.floor(i / 9) % 2]!,
  ];
  return [a, verb, b, "in", place];
});
const tags = (tokens: readonly string[]) =>
  tokens.map((token) => (people.includes(token) ? "B-PER" : places.includes(token) ? "B-LOC" : "O"));

const common = ["--batch-size", "8", "--threads", "1", "--rank", "4", "--json"];
const train = async (...args: string[]) => summary(await espalier("train", ...common, ...args));
const measure = async (adapter: unknown, data: string, ...args: string[]) =>
  summary(await espalier("eval", "--adapter", String(adapter), "--data", data, "--batch-size", "8", "--json", ...args));

/** What eval says of the adapter is what train said of it. */
async function expectSame(result: Record<string, unknown>, data: string): Promise<void> {
  const measured = await measure(result.adapter, data);
  const after = result.after as Record<string, number>;
  expect(measured).toMatchObject({ task: result.task, metric: result.metric });
  for (const [name, value] of Object.entries(after)) expect(measured[name], name).toBeCloseTo(value, 4);
}

/**
 * The adapter becomes a model of its own: merged, it is measured the same, and a graph is made of it for other runtimes, which comes to what it computes.
 * Returns what the configuration beside the graph says.
 */
async function expectWhole(result: Record<string, unknown>, data: string): Promise<Record<string, unknown>> {
  const [merged, exported] = [`${result.adapter}-merged`, `${result.adapter}-onnx`];
  summary(await espalier("merge", "--adapter", String(result.adapter), "--output", merged, "--json"));
  const measured = summary(await espalier("eval", "--model", merged, "--data", data, "--batch-size", "8", "--json"));
  for (const [name, value] of Object.entries(result.after as Record<string, number>)) expect(measured[name], name).toBeCloseTo(value, 3);
  const configs = [];
  for (const from of [
    ["--adapter", String(result.adapter)],
    ["--model", merged],
  ]) {
    const { files } = summary(await espalier("export", ...from, "--output", exported, "--json"));
    for (const { largestDifference, largestValue } of files as { largestDifference: number; largestValue: number }[])
      expect(largestDifference / largestValue).toBeLessThan(1e-4);
    configs.push(JSON.parse(readFileSync(join(exported, "config.json"), "utf8")));
  }
  const [, config] = configs;
  expect(configs[0]).toMatchObject({ architectures: config.architectures, ...(config.id2label && { id2label: config.id2label }) });
  return configs[0];
}

describe("token classification", () => {
  const data = lines(
    "tokens.jsonl",
    sentences.map((tokens) => ({ tokens, labels: tags(tokens) })),
  );
  let result: Record<string, unknown>;
  beforeAll(async () => {
    result = await train(
      "--model",
      bert,
      "--data",
      data,
      "--eval-data",
      data,
      "--run",
      at("tokens"),
      "--max-length",
      "16",
      "--steps",
      "40",
      "--learning-rate",
      "1e-2",
    );
  });

  test("is recognised, learns spans, and saves its new head with the adapter", async () => {
    expect(result).toMatchObject({ task: "token-classification", metric: "f1" });
    expect(result.finalMetric).toBeGreaterThan(0.95);
    const { config, tensors } = readPeftAdapter(join(at("tokens"), "adapter"));
    expect(config).toMatchObject({ task_type: "TOKEN_CLS" });
    expect([...tensors.keys()]).toContain("classifier.weight");
    expect(JSON.parse(readFileSync(join(at("tokens"), "adapter/espalier.json"), "utf8"))).toEqual({
      task: "token-classification",
      labels: ["B-LOC", "B-PER", "O"],
      maxLength: 16,
    });
    await expectSame(result, data);
  });

  test("merges into a model of its own, and is exported", async () => {
    expect(await expectWhole(result, data)).toMatchObject({
      architectures: ["BertForTokenClassification"],
      id2label: { "0": "B-LOC", "1": "B-PER", "2": "O" },
    });
  });

  test("predict labels the words of lines, and names the spans", async () => {
    writeFileSync(at("words.txt"), "ada likes bob in rome\n\nbob knows eve in oslo\n");
    const { results } = summary(await espalier("predict", "--adapter", result.adapter as string, at("words.txt"), "--json")) as {
      results: unknown[];
    };
    expect(results).toEqual([
      {
        ...{ file: at("words.txt"), line: 1, tokens: ["ada", "likes", "bob", "in", "rome"], labels: ["B-PER", "O", "B-PER", "O", "B-LOC"] },
        spans: [
          { type: "PER", start: 0, end: 0, text: "ada" },
          { type: "PER", start: 2, end: 2, text: "bob" },
          { type: "LOC", start: 4, end: 4, text: "rome" },
        ],
      },
      expect.objectContaining({ line: 3, labels: ["B-PER", "O", "B-PER", "O", "B-LOC"] }),
    ]);
  });

  test("labels that are missing, all null, one only, unknown to the adapter", async () => {
    const on = async (name: string, records: readonly unknown[]) =>
      refusal(
        await espalier("train", ...common, "--model", bert, "--max-length", "16", "--data", lines(name, records), "--run", at("never")),
      );
    expect(await on("short.jsonl", [{ tokens: ["ada", "sees"], labels: ["O"] }])).toContain("has 2 words and 1 labels");
    expect(
      await on(
        "null.jsonl",
        sentences.map((tokens) => ({ tokens, labels: tokens.map(() => null) })),
      ),
    ).toContain("No word of the training data has a label");
    expect(
      await on(
        "one-kind.jsonl",
        sentences.map((tokens) => ({ tokens, labels: tokens.map(() => "O") })),
      ),
    ).toContain('all are "O"');
    const other = lines("other.jsonl", [{ tokens: ["ada"], labels: ["B-ORG"] }]);
    expect(refusal(await espalier("eval", "--adapter", result.adapter as string, "--data", other))).toContain(
      'does not know the label "B-ORG"',
    );
  });
});

test("regression: numbers on their own scale, with an encoder and with a decoder", async () => {
  const data = lines(
    "numbers.jsonl",
    sentences.map((tokens) => ({ text: tokens.join(" "), label: 100 + 10 * people.indexOf(tokens[0]!) })),
  );
  for (const [name, model] of [
    ["bert", bert],
    ["decoder", decoder],
  ] as const) {
    const result = await train(
      "--task",
      "regression",
      "--model",
      model,
      "--data",
      data,
      "--eval-data",
      data,
      "--run",
      at(`numbers-${name}`),
      "--max-length",
      "24",
      "--steps",
      "40",
      "--learning-rate",
      "1e-2",
    );
    expect(result).toMatchObject({ task: "regression", metric: "mse" });
    expect((result.after as Record<string, number>).mse).toBeLessThan((result.before as Record<string, number>).mse! / 2);
    await expectSame(result, data);
    writeFileSync(at("ada.txt"), "ada sees bob in rome");
    const { results } = summary(await espalier("predict", "--adapter", result.adapter as string, at("ada.txt"), "--json")) as {
      results: { value: number }[];
    };
    expect(results[0]!.value).toBeGreaterThan(90);
    expect(results[0]!.value).toBeLessThan(130);
    expect(await expectWhole(result, data)).toMatchObject({ problem_type: "regression", id2label: { "0": "LABEL_0" } });
  }
  const broken = lines("broken.jsonl", [{ text: "ada", label: "many" }]);
  expect(
    refusal(await espalier("train", ...common, "--task", "regression", "--model", bert, "--data", broken, "--run", at("never"))),
  ).toContain('broken.jsonl line 1: "label" is "many", which is no number');
});

test("several labels: lists are recognised, each label is told by itself", async () => {
  const data = lines(
    "many.jsonl",
    sentences.map((tokens) => ({
      text: tokens.join(" "),
      labels: places.filter((place) => tokens.includes(place)).concat(tokens.includes("likes") ? ["fond"] : []),
    })),
  );
  const result = await train(
    "--model",
    bert,
    "--data",
    data,
    "--eval-data",
    data,
    "--run",
    at("many"),
    "--max-length",
    "16",
    "--steps",
    "100",
    "--learning-rate",
    "1e-2",
  );
  expect(result).toMatchObject({ task: "multi-label", metric: "f1" });
  expect(result.finalMetric).toBeGreaterThan(0.9);
  await expectSame(result, data);
  writeFileSync(at("many.txt"), "ada likes bob in rome");
  const { results } = summary(await espalier("predict", "--adapter", result.adapter as string, at("many.txt"), "--json")) as {
    results: { labels: string[] }[];
  };
  expect(results[0]!.labels).toEqual(["fond", "rome"]);
  expect(await expectWhole(result, data)).toMatchObject({
    problem_type: "multi_label_classification",
    id2label: { "0": "fond", "1": "oslo", "2": "rome" },
  });
});

test("regression of a whole model says so in config.json", async () => {
  const data = lines(
    "few-numbers.jsonl",
    sentences.slice(0, 12).map((tokens, i) => ({ text: tokens.join(" "), label: i })),
  );
  const result = await train(
    "--task",
    "regression",
    "--method",
    "none",
    "--rank",
    "8",
    "--model",
    bert,
    "--data",
    data,
    "--eval-data",
    data,
    "--run",
    at("whole"),
    "--max-length",
    "16",
    "--steps",
    "2",
  );
  const config = JSON.parse(readFileSync(join(at("whole"), "trained-model/config.json"), "utf8"));
  expect(config).toMatchObject({
    problem_type: "regression",
    id2label: { "0": "LABEL_0" },
    architectures: ["BertForSequenceClassification"],
  });
  const measured = summary(await espalier("eval", "--model", result.adapter as string, "--data", data, "--json"));
  expect(measured.mse).toBeCloseTo((result.after as Record<string, number>).mse!, 3);
});

test("masked words: an encoder without labels learns them; held-out places are the same every time", async () => {
  const model = writeBert(at("masked"), words, "encoder-bert");
  const data = lines(
    "plain.jsonl",
    sentences.map((tokens) => ({ text: tokens.join(" ") })),
  );
  const args = ["--model", model, "--data", data, "--eval-data", data, "--max-length", "16", "--steps", "30", "--learning-rate", "1e-2"];
  const result = await train(...args, "--run", at("masked-run"), "--mask-share", "0.3", "--whole-words");
  expect(result).toMatchObject({ task: "masked-lm", metric: "perplexity" });
  expect(result.finalMetric).toBeLessThan((result.baseMetric as number) / 3);
  await expectSame(result, data);
  expect(refusal(await espalier("predict", "--adapter", result.adapter as string, data))).toContain("was trained for masked-lm");
  expect(await expectWhole(result, data)).toMatchObject({ architectures: ["BertForMaskedLM"] });
});

test("masked words: an encoder without the head that guesses them is refused", async () => {
  const data = lines("heads.jsonl", [{ text: "ada sees" }, { text: "bob knows rome" }, { text: "eve likes oslo" }]);
  const message = refusal(await espalier("train", "--task", "masked-lm", "--model", bert, "--data", data, "--run", at("headless")));
  expect(message).toContain("without the head that guesses hidden words");
  expect(message).toContain("BertForMaskedLM");
});

describe("seq2seq", () => {
  const pairs = Array.from({ length: 40 }, (_, i) => {
    const letters = [..."abcd"].map((_, k) => String.fromCharCode(97 + ((i * (k + 3) + k) % 6))).join("");
    return { source: letters, target: letters.toUpperCase().slice(0, 2) };
  });
  const data = lines("pairs.jsonl", pairs);
  let result: Record<string, unknown>;
  beforeAll(async () => {
    const model = writeT5(at("t5"));
    result = await train(
      "--model",
      model,
      "--data",
      data,
      "--eval-data",
      data,
      "--run",
      at("pairs"),
      "--max-length",
      "12",
      "--steps",
      "60",
      "--learning-rate",
      "3e-2",
    );
  });

  test("trains an encoder-decoder; quality is the loss, and BLEU, chrF and ROUGE of what it writes", async () => {
    expect(result).toMatchObject({ task: "seq2seq", metric: "rougeL" });
    expect(result.evalLossAfter).toBeLessThan((result.evalLossBefore as number) * 0.8);
    for (const metric of ["rouge1", "rouge2", "rougeL", "bleu", "chrf"])
      expect((result.after as Record<string, number>)[metric], metric).toEqual(expect.any(Number));
    await expectSame(result, data);
  });

  test("predict reads the sources of data such as it was trained on, and of data without answers", async () => {
    const sources = lines(
      "sources.jsonl",
      pairs.slice(0, 2).map(({ source }) => ({ source })),
    );
    const answers = async (file: string) =>
      (summary(await espalier("predict", "--adapter", result.adapter as string, file, "--json")).results as { text: string }[]).map(
        ({ text }) => text,
      );
    expect((await answers(data)).slice(0, 2)).toEqual(await answers(sources));
    const other = lines("texts.jsonl", [{ body: "abcd" }]);
    expect(refusal(await espalier("predict", "--adapter", result.adapter as string, other))).toContain(
      'texts.jsonl line 1: has no text "source"; a line looks like {"source":"…"}',
    );
  });

  test("predict reads the column that training was told to read", async () => {
    const named = lines(
      "named.jsonl",
      pairs.slice(0, 8).map(({ source, target }) => ({ from: source, to: target })),
    );
    const columns = ["--task", "seq2seq", "--source-column", "from", "--target-column", "to"];
    const { adapter } = await train(
      ...[
        "--model",
        at("t5"),
        "--data",
        named,
        "--eval-data",
        named,
        "--run",
        at("named"),
        "--max-length",
        "12",
        "--steps",
        "1",
        ...columns,
      ],
    );
    const { results } = summary(await espalier("predict", "--adapter", adapter as string, named, "--json")) as { results: unknown[] };
    expect(results).toHaveLength(8);
  });

  test("predict and generate answer", async () => {
    writeFileSync(at("source.txt"), "abcd");
    const { results } = summary(await espalier("predict", "--adapter", result.adapter as string, at("source.txt"), "--json")) as {
      results: { text: string }[];
    };
    const generated = summary(
      await espalier(
        "generate",
        "--adapter",
        result.adapter as string,
        "--prompt",
        "abcd",
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
        "--json",
      ),
    );
    expect(results[0]!.text).toBe((generated.text as string).trim());
  });

  test("merges into a model of its own, and is exported", async () => {
    expect(await expectWhole(result, data)).toMatchObject({ architectures: ["T5ForConditionalGeneration"] });
  });
});

describe("image classification", () => {
  test("directories of labels; the adapter brings the new head; predict reads pictures", async () => {
    const pictures = await writePictures(at("pictures"), 8);
    const model = writeVit(at("vit"), 24);
    const result = await train(
      "--model",
      model,
      "--data",
      pictures,
      "--eval-data",
      pictures,
      "--run",
      at("images"),
      "--steps",
      "12",
      "--learning-rate",
      "1e-2",
    );
    expect(result).toMatchObject({ task: "image-classification", metric: "accuracy", finalMetric: 1 });
    await expectSame(result, pictures);
    const { results } = summary(
      await espalier(
        "predict",
        "--adapter",
        result.adapter as string,
        join(pictures, "dark/3.png"),
        join(pictures, "bright/5.png"),
        "--json",
      ),
    ) as { results: { label: string }[] };
    expect(results.map(({ label }) => label)).toEqual(["dark", "bright"]);
    expect(await expectWhole(result, pictures)).toMatchObject({
      architectures: ["ViTForImageClassification"],
      id2label: { "0": "bright", "1": "dark" },
    });
    expect(refusal(await espalier("eval", "--adapter", result.adapter as string, "--data", pictures, "--max-length", "8"))).toContain(
      "--max-length speaks of tokens",
    );
  });
});

describe("speech", () => {
  const sounds = () => {
    mkdirSync(at("sounds"), { recursive: true });
    const records = Array.from({ length: 8 }, (_, i) => {
      const name = `${i}.wav`;
      writeTone(join(at("sounds"), name), i % 2 ? 1500 : 300, 1200 + 40 * i);
      return { audio: name, text: i % 2 ? "b" : "a" };
    });
    writeFileSync(join(at("sounds"), "data.jsonl"), records.map((r) => JSON.stringify(r)).join("\n"));
    return join(at("sounds"), "data.jsonl");
  };

  test("a recogniser learns letters; predict spells; what cannot be spelt is told", async () => {
    const letters = ["<pad>", "<s>", "</s>", "<unk>", "|", ..."abcdefghijklmno"];
    const [model, data] = [writeWav2Vec2(at("wav2vec2"), letters), sounds()];
    const outcome = await espalier(
      "train",
      ...common,
      "--model",
      model,
      "--data",
      data,
      "--eval-data",
      data,
      "--run",
      at("speech"),
      "--steps",
      "60",
      "--learning-rate",
      "1e-2",
    );
    const result = summary(outcome);
    expect(result).toMatchObject({ task: "ctc", metric: "wer" });
    expect(result.evalLossAfter).toBeLessThan((result.evalLossBefore as number) / 2);
    expect(result.finalMetric).toBeLessThanOrEqual(result.baseMetric as number);
    await expectSame(result, data);
    const { results } = summary(
      await espalier("predict", "--adapter", result.adapter as string, join(at("sounds"), "0.wav"), "--json"),
    ) as {
      results: { text: string }[];
    };
    expect(results[0]!.text).toEqual(expect.any(String));

    summary(await espalier("merge", "--adapter", result.adapter as string, "--output", at("speech-merged"), "--json"));
    const merged = summary(await espalier("eval", "--model", at("speech-merged"), "--data", data, "--json"));
    expect(merged.loss).toBeCloseTo(result.evalLossAfter as number, 3);
    for (const from of [
      ["--adapter", result.adapter as string],
      ["--model", at("speech-merged")],
    ])
      expect(refusal(await espalier("export", ...from, "--output", at("speech-onnx")))).toMatch(
        /was trained for ctc \(.*\), and models of that kind cannot be exported/,
      );
    expect(existsSync(at("speech-onnx"))).toBe(false);

    writeFileSync(join(at("sounds"), "missing.jsonl"), JSON.stringify({ audio: "none.wav", text: "a" }));
    expect(refusal(await espalier("eval", "--adapter", result.adapter as string, "--data", join(at("sounds"), "missing.jsonl")))).toContain(
      "none.wav, which does not exist",
    );
  });
});

describe("what does not fit", () => {
  const labelled = writeLabelled(at("labelled.jsonl"));
  test("a task that the model's family cannot do names those that it can", async () => {
    const asked = async (model: string, task: string) =>
      refusal(await espalier("train", "--model", model, "--data", labelled, "--task", task, "--run", at("never")));
    expect(await asked(decoder, "seq2seq")).toMatch(
      /cannot be trained for seq2seq\. It can be for: chat .*classification .*regression .*language-modeling/s,
    );
    expect(await asked(bert, "language-modeling")).toMatch(
      /cannot be trained for language-modeling\. It can be for: .*token-classification .*masked-lm/s,
    );
  });

  test("data that the model can do nothing with; options of another task; one example", async () => {
    const vit = writeVit(at("vit-2"), 24);
    expect(refusal(await espalier("train", "--model", vit, "--data", labelled, "--run", at("never")))).toContain(
      "the data look like none of the tasks",
    );
    expect(refusal(await espalier("train", "--model", decoder, "--data", labelled, "--mask-share", "0.2", "--run", at("never")))).toContain(
      "--mask-share is an option of masked-lm, and this is classification",
    );
    const one = lines("one.jsonl", [{ tokens: ["ada", "sees"], labels: ["B-PER", "O"] }]);
    expect(refusal(await espalier("train", "--model", bert, "--data", one, "--max-length", "16", "--run", at("never")))).toMatch(
      /only example has no independent part/,
    );
  });
});
