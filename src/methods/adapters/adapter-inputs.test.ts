/** One exported graph serves several adapters: what it computes when it is fed one is what the model with that adapter computes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openSafetensors, readJsonObject, readStorage } from "../../checkpoints/index.ts";
import { refusal } from "../../checkpoints/refusal.ts";
import { Random } from "../../graph/index.ts";
import { checkExport, exportOnnx, loadCausalLM } from "../../models/index.ts";
import { normal } from "../../nn/index.ts";
import { hostTensor } from "../../runtime/index.ts";
import { cpu } from "../../runtime/node.ts";
import { adapterInputs, LoraLinear, loadAdapter, lora } from "../index.ts";

const device = cpu({ threads: 1 });
const scratch = mkdtempSync(join(tmpdir(), "espalier-adapter-inputs-"));
afterAll(async () => {
  await device.dispose();
  rmSync(scratch, { recursive: true, force: true });
});
const fixture = (name: string) => new URL(`../../../tests/fixtures/${name}`, import.meta.url).pathname;
const base = () => loadCausalLM(fixture("llama-tiny")).freeze();
const ids = [5, 17, 99, 3, 64, 2, 31, 8];

/** With a random adapter on the same modules, of another rank and scale. */
function otherAdapter() {
  const model = base();
  lora({ rank: 7, alpha: 3, targets: ["q_proj", "v_proj"] }).weights!(model);
  const init = normal(new Random(5), 0.3);
  for (const [, layer] of model.namedModules())
    if (layer instanceof LoraLinear) layer.lora_B.weight.storage = init(layer.lora_B.weight.shape);
  return model;
}

describe("LoRA", () => {
  const model = base();
  loadAdapter(model, fixture("llama-tiny-lora"));
  const inputs = adapterInputs(model);

  test("leaves what the model computes, with the scale in B", async () => {
    const { tensors } = openSafetensors(join(fixture("llama-tiny-lora"), "expected.safetensors"));
    const { input_ids } = readJsonObject(join(fixture("llama-tiny-lora"), "expected.json")) as { input_ids: number[][] };
    const [file] = exportOnnx(join(scratch, "first"), model, inputs);
    const session = await device.platform.ort.InferenceSession.create(file!.file);
    const row = input_ids[0]!;
    const int64 = (values: number[]) => device.tensor(hostTensor("int64", [1, values.length], BigInt64Array.from(values, BigInt)));
    const empty = () => device.tensor(hostTensor("float32", [1, 2, 0, 12], new Float32Array(0)));
    const past = session.inputNames.filter((name) => name.startsWith("past")).map((name) => [name, empty()]);
    const { logits } = await session.run({
      input_ids: int64(row),
      attention_mask: int64(row.map(() => 1)),
      position_ids: int64(row.map((_, i) => i)),
      ...Object.fromEntries(past),
      ...Object.fromEntries(Array.from(inputs.tensors, ([name, host]) => [name, device.tensor(host)])),
    });
    await session.release();
    const expected = readStorage(tensors.get("logits")!) as Float32Array;
    for (const [i, v] of (logits!.data as Float32Array).entries()) expect(v).toBeCloseTo(expected[i]!, 4);
  });

  test("names its inputs as the parameters are named, with an open rank", () => {
    const name = "model.layers.0.self_attn.q_proj.lora_A.weight";
    expect([...inputs.tensors.keys()]).toEqual(
      [0, 1].flatMap((i) =>
        ["q_proj", "v_proj"].flatMap((layer) => ["A", "B"].map((side) => `model.layers.${i}.self_attn.${layer}.lora_${side}.weight`)),
      ),
    );
    expect(inputs.tensors.get(name)!.shape).toEqual([4, 48]);
    const parameter = new Map(model.namedParameters()).get(name)!;
    expect(String(inputs.inputOf(parameter))).toBe("model_layers_0_self_attn_q_proj_rank,48");
    expect(inputs.inputOf(new Map(model.namedParameters()).get("model.norm.weight")!)).toBeUndefined();
  });

  test.each(["f32", "f16", "int8"] as const)("%s: one file serves adapters of different rank and scale", async (dtype) => {
    const [file] = exportOnnx(join(scratch, "one"), model, { ...inputs, dtypes: [dtype] });
    const other = otherAdapter();
    const { tensors } = adapterInputs(other);
    const tolerance = { f32: 1e-5, f16: 0.01, int8: 0.1 }[dtype];
    for (const [adapted, fed] of [
      [model, inputs.tensors],
      [other, tensors],
    ] as const) {
      const { largestDifference, largestValue } = await checkExport(device, adapted, file!, ids, Object.fromEntries(fed));
      expect(largestDifference / largestValue).toBeLessThan(tolerance);
    }
    // The two are not alike: fed with one, the file does not compute what the other makes.
    const { largestDifference } = await checkExport(device, model, file!, ids, Object.fromEntries(tensors));
    expect(largestDifference).toBeGreaterThan(0.5);
  });
});

test.each(["peft-dora", "peft-ia3", "peft-lora-all-linear", "peft-lora-tokens"])("%s becomes inputs, too", async (name) => {
  const { base: source } = readJsonObject(join(fixture(name), "expected.json")) as { base: string };
  const model = loadCausalLM(fixture(source)).freeze();
  loadAdapter(model, fixture(name));
  const inputs = adapterInputs(model);
  const [file] = exportOnnx(join(scratch, name), model, inputs);
  const { largestDifference } = await checkExport(device, model, file!, ids, Object.fromEntries(inputs.tensors));
  expect(largestDifference).toBeLessThan(1e-4);
});

test("a model without an adapter has none, and virtual tokens are refused", () => {
  expect(refusal(() => adapterInputs(base())).code).toBe("no-adapter");
  const { base: source } = readJsonObject(join(fixture("peft-prompt"), "expected.json")) as { base: string };
  const model = loadCausalLM(fixture(source)).freeze();
  loadAdapter(model, fixture("peft-prompt"));
  expect(refusal(() => exportOnnx(join(scratch, "prompt"), model))).toMatchObject({
    code: "not-exportable",
    message: expect.stringContaining("virtual tokens before every text"),
  });
});
