/** A head that no checkpoint brought is trained and saved with the adapter, on every kind of model that has one. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { readPeftAdapter, readStorage } from "../../checkpoints/index.ts";
import {
  loadCtcModel,
  loadImageClassifier,
  loadSpeechModel,
  loadTokenClassifier,
  type SaveableModel,
  saveModel,
} from "../../models/index.ts";
import { cpu } from "../../runtime/node.ts";
import { applyWeights } from "../../train/method.ts";
import { loadAdapter } from "./load-adapter.ts";
import { lora } from "./lora.ts";

const scratch = mkdtempSync(join(tmpdir(), "espalier-heads-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const fixture = (name: string) => new URL(`../../../tests/fixtures/${name}`, import.meta.url).pathname;

type WithHead = SaveableModel & { headIsFresh: boolean; freshModules: readonly string[] };

/** Models on encoders without a head; another seed gives the new head other values. */
const cases: [name: string, head: string[], load: (seed: number) => WithHead][] = [
  ["tokens", ["classifier"], (seed) => loadTokenClassifier(fixture("encoder-bert-bare"), ["a", "b"], { seed })],
  ["images", ["classifier"], (seed) => loadImageClassifier(fixture("vit-tiny-bare"), ["ant", "bee"], { seed })],
  [
    "speech",
    ["lm_head"],
    (seed) => {
      const bare = join(scratch, "speech");
      saveModel(bare, loadSpeechModel(fixture("wav2vec2-tiny")), { source: fixture("wav2vec2-tiny") });
      return loadCtcModel(bare, { seed });
    },
  ],
];

for (const [name, head, load] of cases)
  test(`a new head for ${name}`, async () => {
    const model = load(1);
    expect(model).toMatchObject({ headIsFresh: true, freshModules: head });
    const method = lora({ rank: 2, targets: "all-linear" });
    applyWeights(model, [method]);
    const trained = model.trainableParameters().map((p) => p.name);
    for (const path of head) for (const own of ["weight", "bias"]) expect(trained).toContain(`${path}.${own}`);
    const directory = join(scratch, `${name}-adapter`);
    await method.save!(directory, { model, base: "base", parameters: model.trainableParameters(), device: cpu() });
    expect(readPeftAdapter(directory).config.modules_to_save).toEqual(head);

    const other = load(2);
    loadAdapter(other, directory);
    const values = (of: WithHead) =>
      new Map(
        [...of.namedParameters()]
          .filter(([path]) => head.some((h) => path.startsWith(h)))
          .map(([path, p]) => [path, readStorage(p.storage)]),
      );
    expect(values(other)).toEqual(values(model));
  });
