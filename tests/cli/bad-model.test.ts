/** Broken model directories: what each message says in full is tested beside the readers; here, that it reaches the user, alone, with exit code 1. */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { espalier, refusal, scratch } from "./command.ts";
import { writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const model = writeTinyModel(join(directory, "model"));
const data = writeLabelled(join(directory, "data.jsonl"));

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** A copy of the model whose files `spoil` changes, trained on; nothing must have been begun. */
async function trainOn(spoil: (copy: string) => void): Promise<{ message: string; copy: string }> {
  const copy = mkdtempSync(join(directory, "copy-"));
  cpSync(model, copy, { recursive: true });
  spoil(copy);
  const run = join(directory, "run");
  const message = refusal(await espalier("train", "--model", copy, "--data", data, "--run", run));
  expect(existsSync(run)).toBe(false);
  return { message, copy };
}

/** Rewrites the header of the weights and leaves their values alone. */
function spoilHeader(change: (header: Header) => void): (copy: string) => void {
  return (copy) => {
    const file = join(copy, "model.safetensors");
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
    change(header);
    const json = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(json.length));
    writeFileSync(file, Buffer.concat([prefix, json, bytes.subarray(8 + length)]));
  };
}

const embedding = "model.embed_tokens.weight";

test("a model directory that is not there", async () => {
  const missing = join(directory, "no-model");
  for (const args of [["train", "--data", data], ["eval", "--data", data], ["generate", "--prompt", "x"], ["inspect"]])
    expect(refusal(await espalier(...args, "--model", missing))).toContain(
      `${missing}: cannot be opened, there is no such directory. Give the directory that holds the model's files.`,
    );
});

test("weights with a truncated header", async () => {
  const { message, copy } = await trainOn((copy) => {
    const file = join(copy, "model.safetensors");
    writeFileSync(file, readFileSync(file).subarray(0, 100));
  });
  expect(message).toContain(`${copy}/model.safetensors: `);
  expect(message).toMatch(/header/);
});

test("weights whose header is longer than the file", async () => {
  const { message } = await trainOn((copy) => {
    const file = join(copy, "model.safetensors");
    const bytes = readFileSync(file);
    bytes.writeBigUInt64LE(50_000_000n);
    writeFileSync(file, bytes);
  });
  expect(message).toMatch(/model\.safetensors: .*50,?000,?000/);
});

test("weights with overlapping offsets", async () => {
  const { message } = await trainOn(
    spoilHeader((header) => {
      const norm = header["model.norm.weight"]!;
      const [begin, end] = header[embedding]!.data_offsets;
      norm.data_offsets = [begin, begin + (norm.data_offsets[1] - norm.data_offsets[0])];
      expect(end).toBeGreaterThan(norm.data_offsets[1]);
    }),
  );
  expect(message).toMatch(/model\.safetensors: .*(overlap|share)/);
});

test("weights of an unknown type", async () => {
  const { message } = await trainOn(spoilHeader((header) => (header[embedding]!.dtype = "F12")));
  expect(message).toContain(embedding);
  expect(message).toContain("F12");
});

test("a shape that does not fit the bytes", async () => {
  const { message } = await trainOn(spoilHeader((header) => (header[embedding]!.shape = [300, 33])));
  expect(message).toContain(embedding);
  expect(message).toContain("[300, 33]");
});

test("a shape that does not fit the configuration", async () => {
  const { message } = await trainOn(spoilHeader((header) => (header[embedding]!.shape = [150, 64])));
  expect(message).toContain(embedding);
  expect(message).toContain("[150, 64]");
  expect(message).toContain("[300, 32]");
});

test("a checkpoint that lacks a tensor and has another one too many, both named", async () => {
  const { message } = await trainOn(
    spoilHeader((header) => {
      header["model.layers.0.mlp.gate_prok.weight"] = header["model.layers.0.mlp.gate_proj.weight"]!;
      delete header["model.layers.0.mlp.gate_proj.weight"];
    }),
  );
  expect(message).toContain("model.layers.0.mlp.gate_proj.weight");
  expect(message).toContain("model.layers.0.mlp.gate_prok.weight");
});

test("no tokenizer.json", async () => {
  const { message, copy } = await trainOn((copy) => rmSync(join(copy, "tokenizer.json")));
  expect(message).toContain(`${copy}/tokenizer.json does not exist. A model directory needs the tokenizer.json`);
});

test("an adapter's directory in the model's place", async () => {
  const run = join(directory, "adapted");
  const args = ["--model", model, "--data", data, "--run", run, "--steps", "1", "--max-length", "32"];
  expect((await espalier("train", ...args)).code).toBe(0);
  const adapter = join(run, "adapter");
  expect(refusal(await espalier("generate", "--model", adapter, "--prompt", "x"))).toContain(
    "holds an adapter (adapter_config.json), not a model",
  );
  expect(refusal(await espalier("classify", "--adapter", model, data))).toContain("is not an adapter, it has no adapter_config.json");
  writeFileSync(join(adapter, "espalier.json"), '{"task": "classification", "labels": "tree"}');
  expect(refusal(await espalier("classify", "--adapter", adapter, data))).toMatch(/espalier\.json is damaged: /);
  rmSync(join(adapter, "espalier.json"));
  cpSync(model, join(directory, "moved"), { recursive: true });
  const config = JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8"));
  writeFileSync(join(adapter, "adapter_config.json"), JSON.stringify({ ...config, base_model_name_or_path: "/gone" }));
  expect(refusal(await espalier("eval", "--adapter", adapter, "--data", data))).toContain(
    'its base model "/gone" is not a directory here. Give its directory with --model.',
  );
});
