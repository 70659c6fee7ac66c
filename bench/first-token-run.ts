/** `first-token-run.ts <directory> <base dtype>`: opens a checkpoint, reads 32 tokens and prints what that took, from the start to the first token. */
import { Decoder, sample } from "../src/generate/index.ts";
import { Random } from "../src/graph/index.ts";
import { type BaseDtype, loadCausalLM, setBaseDtype } from "../src/models/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { anonymousMemory } from "./machine.ts";

const [directory, dtype] = process.argv.slice(2) as [string, BaseDtype];
const before = anonymousMemory();
const started = performance.now();
const model = loadCausalLM(directory).freeze();
setBaseDtype(model, dtype);
const device = cpu();
const decoder = await Decoder.create(device, model);
const opened = performance.now();
const decoding = await decoder.start([Array.from({ length: 32 }, (_, i) => 7 * i + 3)]);
const token = sample(decoding.logits(), [], {}, new Random(0));
const ended = performance.now();
const anonymousMB = (anonymousMemory() - before) / 1e6;
await device.dispose();
console.log(JSON.stringify({ openMilliseconds: opened - started, firstTokenMilliseconds: ended - started, anonymousMB, token }));
