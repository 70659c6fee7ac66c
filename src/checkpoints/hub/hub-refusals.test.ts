/** What is refused, by the Hub and by us. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { ownHome } from "../../../tests/hub/environment.ts";
import { model, refusal, startHub } from "../../../tests/hub/tiny-repo.ts";
import { downloadModel } from "./download-model.ts";

const home = ownHome();

test("no such model", async () => {
  const hub = await startHub();
  expect(await refusal("org/none")).toEqual({
    code: "hub-missing",
    message: `There is no model org/none on ${hub.endpoint}, or it is private. Check the name; for a private model, set HF_TOKEN to an access token of an account that may read it (${hub.endpoint}/settings/tokens).`,
  });
  vi.stubEnv("HF_TOKEN", hub.token);
  expect((await refusal("org/none")).message).toMatch(
    /Check the name, and that the account of the access token from HF_TOKEN may read it\.$/,
  );
});

test("a gated model needs a token, by whichever way it is given; a wrong one is named", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model, { gated: true });
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("hub-gated");
  expect(message).toContain(`Ask for access at ${hub.endpoint}/org/tiny, make an access token of that account`);

  vi.stubEnv("HF_TOKEN", "hf_wrong");
  expect(await refusal("org/tiny")).toEqual({
    code: "hub-token",
    message: `${hub.endpoint} refuses the access token from HF_TOKEN. Make a new one at ${hub.endpoint}/settings/tokens, or remove it: public models need none.`,
  });

  vi.stubEnv("HF_TOKEN", undefined);
  writeFileSync(join(home.directory, "token"), `${hub.token}\n`);
  await downloadModel("org/tiny");
  rmSync(join(home.directory, "token"));
  await downloadModel("org/tiny"); // what is there is there
  rmSync(join(home.directory, "hub"), { recursive: true });
  expect((await refusal("org/tiny")).code).toBe("hub-gated");
  await downloadModel("org/tiny", { token: hub.token });
});

test("the token goes to the endpoint and nowhere else", async () => {
  const hub = await startHub();
  hub.host("org/tiny", model, { private: true });
  vi.stubEnv("HF_TOKEN", hub.token);
  await downloadModel("org/tiny");
  const at = (server: string) => new Set(hub.served.filter((s) => s.server === server).map(({ authorization }) => authorization));
  expect(at("hub")).toEqual(new Set([`Bearer ${hub.token}`]));
  expect(at("storage")).toEqual(new Set([undefined]));
});

test("pickles are refused and never fetched", async () => {
  const hub = await startHub();
  hub.host("org/tiny", { "config.json": "{}", "pytorch_model.bin": "a pickle" });
  const { code, message } = await refusal("org/tiny");
  expect(code).toBe("checkpoint-pickle");
  expect(message).toContain("org/tiny: has its weights only as pytorch_model.bin, a Python pickle");
  expect(message).toContain("org/tiny@refs/pr/1");
  expect(hub.bodies).toEqual([]);
});

test("a repository without a model", async () => {
  const hub = await startHub();
  hub.host("org/tiny", { "README.md": "x", "model_index.json": "{}" });
  expect(await refusal("org/tiny")).toEqual({
    code: "hub-no-model",
    message:
      'org/tiny holds no model that Espalier reads: neither model.safetensors nor an index of shards, no adapter and no GGUF file. It has "README.md", "model_index.json".',
  });
});

test("names that lead out of the snapshot", async () => {
  const hub = await startHub();
  const index = (shard: string) => JSON.stringify({ weight_map: { w: shard } });
  for (const shard of ["../../../../evil.safetensors", "/tmp/evil.safetensors", "a\\..\\..\\evil.safetensors", "C:evil.safetensors"]) {
    hub.host("org/tiny", { "config.json": "{}", "model.safetensors.index.json": index(shard), [shard]: "evil" });
    expect((await refusal("org/tiny")).code).toBe("checkpoint-index");
  }
  hub.host("org/tiny", { "../evil.gguf": "evil" });
  expect((await refusal("org/tiny")).code).toBe("hub-no-model");
  hub.host("org/tiny", model, { commit: "../../../evil" });
  expect((await refusal("org/tiny")).code).toBe("hub-answer");
  hub.host("org/tiny", { ...model, "../tokenizer.json": "evil", "additional_chat_templates/../../x.jinja": "evil" });
  await downloadModel("org/tiny");
  expect(hub.served.filter(({ path }) => path.includes("evil") || path.includes(".."))).toEqual([]);
  for (const name of ["org/../tiny", "../tiny", "org/tiny@../../x", "org/tiny/../x.gguf", "org//tiny", "a--b/c", "org/tiny@"])
    expect((await refusal(name)).code).toBe("hub-id");
  expect((await refusal("org/tiny", { file: "../x.gguf" })).code).toBe("hub-id");
  expect((await refusal("org/tiny", { revision: "../x" })).code).toBe("hub-id");
});

test("an endpoint that is no Hub", async () => {
  vi.stubEnv("HF_ENDPOINT", "huggingface.co");
  expect((await refusal("org/tiny")).code).toBe("hub-endpoint");
  expect((await refusal("org/tiny", { endpoint: "http://127.0.0.1:9/" })).message).toContain("http://127.0.0.1:9 cannot be reached");
});
