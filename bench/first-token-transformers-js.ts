/** `first-token-transformers-js.ts <directory> <dtype>`: as `first-token-run.ts`, with an exported directory in transformers.js. */
import { basename, dirname } from "node:path";
import { AutoModelForCausalLM, env, Tensor } from "@huggingface/transformers";
import { anonymousMemory } from "./machine.ts";

const [directory, dtype] = process.argv.slice(2) as [string, "fp32" | "fp16" | "q8"];
env.allowRemoteModels = false;
env.localModelPath = dirname(directory);
const before = anonymousMemory();
const started = performance.now();
const model = await AutoModelForCausalLM.from_pretrained(basename(directory), { dtype });
const opened = performance.now();
const int64 = (value: (i: number) => number) =>
  new Tensor(
    "int64",
    BigInt64Array.from({ length: 32 }, (_, i) => BigInt(value(i))),
    [1, 32],
  );
const inputs = { input_ids: int64((i) => 7 * i + 3), attention_mask: int64(() => 1) };
const sequences = (await model.generate({ ...inputs, max_new_tokens: 1, do_sample: false } as never)) as Tensor;
const ended = performance.now();
const token = Number((sequences.data as BigInt64Array).at(-1));
const anonymousMB = (anonymousMemory() - before) / 1e6;
await model.dispose();
console.log(JSON.stringify({ openMilliseconds: opened - started, firstTokenMilliseconds: ended - started, anonymousMB, token }));
