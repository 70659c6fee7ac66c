import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { openCheckpoint, openSafetensors, readJsonFile, readPeftAdapter } from "../checkpoints/index.ts";
import { chatTemplateFromDirectory } from "../inputs/text/chat-template-directory.ts";
import { tokenizerFromDirectory } from "../inputs/text/tokenizer-directory.ts";
import { refuseIrregular } from "./regular-file.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-irregular-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

test("a file passes, also behind a link; what is no file is named", () => {
  writeFileSync(join(directory, "file"), "");
  symlinkSync("file", join(directory, "link"));
  refuseIrregular(join(directory, "link"));
  expect(() => refuseIrregular(directory)).toThrow("it is a directory");
  expect(() => refuseIrregular("/dev/zero")).toThrow("it is a device or a pipe, not a file");
});

// A device that never ends, and a pipe that nobody writes into: reading one would fill the memory, opening the other would wait for ever.
test.each(["device", "pipe"])("a model directory in which each file is a link to a %s", async (kind) => {
  const target = kind === "device" ? "/dev/zero" : join(directory, "pipe");
  if (kind === "pipe") execFileSync("mkfifo", [target]);
  const link = (name: string) => {
    symlinkSync(target, join(directory, name));
    return join(directory, name);
  };
  const what = /it is a device or a pipe|has no config\.json|EINVAL|has no adapter_config/;
  expect(() => readJsonFile(link("config.json"))).toThrow(what);
  expect(() => openSafetensors(link("model.safetensors"))).toThrow(what);
  expect(() => openCheckpoint(directory)).toThrow(what);
  link("adapter_config.json");
  expect(() => readPeftAdapter(directory)).toThrow(what);
  link("tokenizer.json");
  await expect(tokenizerFromDirectory(directory)).rejects.toThrow(what);
  link("chat_template.jinja");
  expect(() => chatTemplateFromDirectory(directory)).toThrow(what);
});
