import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../graph/dtype-conversion.ts";
import { readStorage } from "../runtime/stored-values.ts";
import { openCheckpoint, saveCheckpoint } from "./hf-directory.ts";
import { refusal } from "./refusal.ts";
import { writeSafetensors } from "./safetensors.ts";

const fixtures = fileURLToPath(new URL("../../tests/fixtures/", import.meta.url));
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-directory-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

const write = (name: string, content: unknown) =>
  writeFileSync(join(directory, name), typeof content === "string" ? content : JSON.stringify(content));
const read = () => refusal(() => openCheckpoint(directory), directory);
const scalar = (value: number) => ({ kind: "memory" as const, dtype: "float32" as const, shape: [1], data: Float32Array.of(value) });

describe("a directory saved by transformers", () => {
  test("opens with config, tensors and file names", () => {
    const { directory: path, config, tensors, files } = openCheckpoint(join(fixtures, "llama-tiny"));
    expect(path).toBe(join(fixtures, "llama-tiny"));
    expect(config).toMatchObject({ model_type: "llama", hidden_size: 48 });
    expect(tensors.size).toBe(21);
    expect(tensors.get("model.layers.1.mlp.down_proj.weight")).toMatchObject({ dtype: "float32", shape: [48, 96] });
    expect(files).toEqual(["config.json", "expected.json", "expected.safetensors", "generation_config.json", "model.safetensors"]);
  });

  test("opens from shards with the same names, in bfloat16 what the whole one is in float32", () => {
    const whole = openCheckpoint(join(fixtures, "llama-tiny")).tensors;
    const { tensors } = openCheckpoint(join(fixtures, "llama-tiny-sharded-bf16"));
    expect([...tensors.keys()].sort()).toEqual([...whole.keys()].sort());
    expect(new Set([...tensors.values()].map((storage) => storage.kind === "file" && storage.file)).size).toBe(3);
    for (const [name, storage] of tensors) {
      expect(storage.dtype).toBe("bfloat16");
      const rounded = float32ToBfloat16(readStorage(whole.get(name)!) as Float32Array);
      expect(bfloat16ToFloat32(readStorage(storage) as Uint16Array)).toEqual(bfloat16ToFloat32(rounded));
    }
  });

  test("does not store a tied head twice", () => {
    expect([...openCheckpoint(join(fixtures, "llama-tiny-tied")).tensors.keys()]).not.toContain("lm_head.weight");
  });

  test("survives being saved, with its other files", () => {
    const { config, tensors } = openCheckpoint(join(fixtures, "llama-tiny"));
    const target = join(directory, "deep", "copy");
    saveCheckpoint(target, { config, tensors, extraFiles: { "tokenizer.json": "{}", "raw.bin": Uint8Array.of(1, 2) } });
    const again = openCheckpoint(target);
    expect(again.config).toEqual(config);
    expect(again.files).toEqual(["config.json", "model.safetensors", "raw.bin", "tokenizer.json"]);
    expect(again.tensors.size).toBe(tensors.size);
    for (const [name, storage] of tensors) expect(readStorage(again.tensors.get(name)!)).toEqual(readStorage(storage));
    expect(readFileSync(join(target, "model.safetensors"), "latin1")).toContain('"__metadata__":{"format":"pt"}');
  });
});

describe("refuses", () => {
  test("a missing directory", () => {
    const missing = join(directory, "none");
    expect(refusal(() => openCheckpoint(missing), directory)).toEqual({
      code: "checkpoint-missing",
      message: "…/none: cannot be opened, there is no such directory. Give the directory that holds the model's files.",
    });
    write("file", "x");
    expect(refusal(() => openCheckpoint(join(directory, "file")), directory).message).toContain("it is a file, not a directory");
  });

  test("a directory without config.json, and an adapter in a model's place", () => {
    expect(read()).toEqual({
      code: "checkpoint-missing",
      message: "…: has no config.json, which says what the weights are. It must lie beside the weights, as in a Hugging Face download.",
    });
    write("adapter_config.json", {});
    expect(read().message).toBe(
      "…: holds an adapter (adapter_config.json), not a model. Give the base model's directory here, and this one as the adapter.",
    );
  });

  test("a broken config.json", () => {
    write("config.json", '{"a":');
    expect(read().code).toBe("checkpoint-json");
    expect(read().message).toMatch(/^…\/config\.json: is not valid JSON \(.+\)\. Fetch or write it again\.$/);
    write("config.json", [1]);
    expect(read().message).toBe("…/config.json: must hold a JSON object, not a list. Fetch or write it again.");
  });

  test("no weights, or only a pickle, with the way to convert it", () => {
    write("config.json", {});
    expect(read()).toEqual({
      code: "checkpoint-missing",
      message:
        "…: has no weights: neither model.safetensors nor model.safetensors.index.json. Fetch them, or save the model there in safetensors form.",
    });
    write("pytorch_model.bin", "");
    expect(read().code).toBe("checkpoint-pickle");
    expect(read().message).toContain(
      "…: has its weights only as pytorch_model.bin, a Python pickle, which can run any program when it is opened; Espalier reads safetensors only. Convert it",
    );
    expect(read().message).toMatch(
      /\n {2}python -c "import torch, .*torch\.load\('pytorch_model\.bin', weights_only=True\).*'model\.safetensors'/,
    );
  });

  test("a missing shard, a shard without the tensor, a broken shard and an index without a map", () => {
    cpSync(join(fixtures, "llama-tiny-sharded-bf16"), directory, { recursive: true });
    const second = "model-00002-of-00003.safetensors";
    rmSync(join(directory, second));
    expect(read().code).toBe("checkpoint-missing");
    expect(read().message).toMatch(
      /^…\/model\.safetensors\.index\.json: names the shard "model-00002-of-00003\.safetensors" \(for tensor "model\..+"\), which is not in the directory\. Fetch the missing shard\.$/,
    );
    copyFileSync(join(directory, "model-00001-of-00003.safetensors"), join(directory, second));
    expect(read().code).toBe("checkpoint-index");
    expect(read().message).toMatch(
      /in "model-00002-of-00003\.safetensors", which does not hold it\. Index and shards are of different models/,
    );
    write(second, "short");
    expect(read().message).toMatch(/^…\/model-00002-of-00003\.safetensors: has 5 bytes/);
    write("model.safetensors.index.json", { weight_map: ["a"] });
    expect(read().message).toBe(
      '…/model.safetensors.index.json: "weight_map" must map tensor names to shard files. Fetch or save the index again.',
    );
  });

  test("an index that leads out of the directory, in either system's spelling", () => {
    mkdirSync(join(directory, "inner"));
    writeSafetensors(join(directory, "outside.safetensors"), { w: scalar(1) });
    write("inner/config.json", {});
    const absolute = join(directory, "outside.safetensors");
    for (const shard of ["../outside.safetensors", "a/../../outside.safetensors", absolute, "..\\outside", "\\x", "C:x", "a\0b", "", 7]) {
      write("inner/model.safetensors.index.json", { weight_map: { w: shard } });
      const { code, message } = refusal(() => openCheckpoint(join(directory, "inner")), directory);
      expect(code).toBe("checkpoint-index");
      expect(message).toContain('index.json: tensor "w" is placed in ');
      expect(message).toContain("which is not a path inside the directory. Do not use this checkpoint unless you know why.");
    }
  });

  test("to save an extra file under a name that leaves the directory or is taken", () => {
    for (const name of ["../x", "a/../../x", "config.json", "model.safetensors", ""]) {
      const { code, message } = refusal(
        () => saveCheckpoint(directory, { config: {}, tensors: {}, extraFiles: { [name]: "" } }),
        directory,
      );
      expect(code).toBe("checkpoint-file-name");
      expect(message).toBe(
        `…: an extra file cannot be called ${JSON.stringify(name)}. Use a path inside the directory, other than config.json and model.safetensors.`,
      );
    }
    expect(readdirSync(directory)).toEqual([]);
  });

  test("to save where a file is in the way", () => {
    write("file", "");
    const { code, message } = refusal(() => saveCheckpoint(join(directory, "file"), { config: {}, tensors: {} }), directory);
    expect(code).toBe("not-writable");
    expect(message).toMatch(/^…\/file: cannot be created \(EEXIST.*\)\. Choose a directory that you may write to\.$/);
  });
});
