import { expect, test } from "vitest";
import { parseHubId } from "./hub-id.ts";

test("names and their parts", () => {
  expect(parseHubId("gpt2")).toEqual({ repo: "gpt2" });
  expect(parseHubId("HuggingFaceTB/SmolLM2-135M")).toEqual({ repo: "HuggingFaceTB/SmolLM2-135M" });
  expect(parseHubId("org/name@v1.0")).toEqual({ repo: "org/name", revision: "v1.0" });
  expect(parseHubId("org/name@refs/pr/3")).toEqual({ repo: "org/name", revision: "refs/pr/3" });
  expect(parseHubId("org/name-GGUF/name.Q4_K_M.gguf")).toEqual({ repo: "org/name-GGUF", file: "name.Q4_K_M.gguf" });
  expect(parseHubId("org/name/BF16/a.gguf@main")).toEqual({ repo: "org/name", file: "BF16/a.gguf", revision: "main" });
});

test.each([
  "",
  ".",
  "..",
  "./model",
  "../model",
  "/model",
  "~/model",
  "org/",
  "org/name/",
  "org//name",
  "org/name/model.safetensors",
  "a/b/c",
  "model.gguf",
  "models/model.gguf",
  "org/name.git",
  "org/na me",
  "org/na--me",
  "C:\\models",
  "-org/name",
  "org/.name",
  "org/name@",
  "org/name@../x",
  "org/name@a b",
  "org/name@/x",
  "https://huggingface.co/org/name",
])("%j is no name", (text) => {
  expect(parseHubId(text)).toBeUndefined();
});
