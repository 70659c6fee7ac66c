/**
 * Greedy decoding of sapling, one sequence. Every weight is read once per token, so the time a token cannot go below is
 * weights-bytes / bandwidth; the bandwidth is measured through ONNX Runtime in the same run, and for memory and cache apart, because a model as
 * small as sapling may stay in the cache.
 */
import { existsSync } from "node:fs";
import { Decoder, sample } from "../src/generate/index.ts";
import { elementCount, Random, symbol, trace } from "../src/graph/index.ts";
import { LlamaForCausalLM, loadCausalLM } from "../src/models/index.ts";
import { matmul, sum } from "../src/ops/index.ts";
import { type Device, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { median, round } from "./machine.ts";

export interface DecodeBenchOptions {
  /** A few tokens that only show that the bench runs. */
  smoke?: boolean;
  /** Directory of the model. Default: sapling, or random weights of its shape where it is not built yet. */
  model?: string;
  threads?: number;
  profile?: string;
}

const sapling = "models/sapling";

export async function benchDecode(options: DecodeBenchOptions = {}): Promise<Record<string, unknown>> {
  const directory = options.model ?? sapling;
  const isBuilt = existsSync(`${directory}/model.safetensors`);
  const model = (isBuilt ? loadCausalLM(directory) : await randomSapling()).freeze();
  const device = cpu({ threads: options.threads, profile: options.profile });
  const opened = performance.now();
  const decoder = await Decoder.create(device, model);
  const compileSeconds = (performance.now() - opened) / 1000;

  const random = new Random(1);
  const prompt = Array.from({ length: 24 }, () => 2 + random.integer(model.config.vocab_size - 2));
  const last = Math.min(options.smoke ? 48 : 496, model.config.max_position_embeddings);
  const rounds = options.smoke ? 1 : 3;
  const firstTokenSeconds: number[] = [];
  const stepSeconds: number[][] = [];
  const bandwidths: Bandwidths[] = [];
  const meter = await BandwidthMeter.create(cpu({ threads: options.threads }), options.smoke ?? false);
  for (let n = 0; n < rounds + 1; n++) {
    const started = performance.now();
    const decoding = await decoder.start([prompt]);
    let next = sample(decoding.logits(), [], {}, random);
    // The first round warms up.
    if (n > 0) firstTokenSeconds.push((performance.now() - started) / 1000);
    const steps: number[] = [];
    while (decoding.length < last) {
      const stepStarted = performance.now();
      await decoding.push([next]);
      next = sample(decoding.logits(), [], {}, random);
      steps[decoding.length - 1] = (performance.now() - stepStarted) / 1000;
    }
    if (n > 0) stepSeconds.push(steps);
    // A machine whose speed drifts is compared with itself.
    bandwidths.push(await meter.measure(weightBytes(model)));
  }
  await decoder.dispose();
  await meter.dispose();

  const all = stepSeconds.flatMap((steps) => steps.slice(prompt.length));
  /** Around a length of the past; milliseconds. */
  const at = (length: number) => round(1000 * median(stepSeconds.flatMap((steps) => steps.slice(length - 8, length + 8))), 3);
  const tokensPerSecond = all.length / all.reduce((a, b) => a + b, 0);
  const memory = median(bandwidths.map((b) => b.memory));
  const cache = median(bandwidths.map((b) => b.ofWeights));
  const bound = memory / weightBytes(model);
  return {
    tokensPerSecond: round(tokensPerSecond, 0),
    medianTokensPerSecond: round(1 / median(all), 0),
    boundTokensPerSecond: round(bound, 0),
    shareOfBound: round(tokensPerSecond / bound, 3),
    boundFromCacheTokensPerSecond: round(cache / weightBytes(model), 0),
    weightsMB: round(weightBytes(model) / 1e6, 1),
    memoryGBPerSecond: round(memory / 1e9, 1),
    cacheGBPerSecond: round(cache / 1e9, 1),
    bandwidthMeasuredBy: "ONNX Runtime: the faster of a row sum and a matrix-vector product",
    firstTokenMilliseconds: round(1000 * median(firstTokenSeconds), 2),
    promptTokens: prompt.length,
    millisecondsAtPast32: at(32),
    ...(last > 456 && { millisecondsAtPast448: at(448) }),
    compileSeconds: round(compileSeconds, 2),
    weights: isBuilt ? directory : "random, of sapling's shape",
  };
}

async function randomSapling(): Promise<LlamaForCausalLM> {
  const { saplingConfig } = await import("../recipes/sapling/config.ts");
  return new LlamaForCausalLM(saplingConfig);
}

/** Bytes of the weights that one token reads: an embedding that is not the head too is read in one row only. */
function weightBytes(model: LlamaForCausalLM): number {
  const read = model.parameters().filter((p) => !model.lm_head || p !== model.model.embed_tokens.weight);
  return read.reduce((bytes, p) => bytes + 4 * elementCount(p.shape), 0);
}

/** Bytes per second. */
interface Bandwidths {
  memory: number;
  /** Of reading as many bytes as the weights have again and again. */
  ofWeights: number;
}

const width = 4096;

class BandwidthMeter {
  readonly #programs: Awaited<ReturnType<Device["compile"]>>[];
  readonly #values: Float32Array;

  private constructor(programs: Awaited<ReturnType<Device["compile"]>>[], values: Float32Array) {
    this.#programs = programs;
    this.#values = values;
  }

  static async create(device: Device, smoke: boolean): Promise<BandwidthMeter> {
    const type = { dtype: "float32", shape: [symbol("rows"), width] } as const;
    const rowSum = trace({ x: type }, ({ x }) => ({ y: sum(x, 1) }));
    const product = trace({ x: type, v: { dtype: "float32", shape: [1, width] } }, ({ x, v }) => ({
      y: matmul(v, x, { transposeB: true }),
    }));
    const programs = [await device.compile(rowSum), await device.compile(product)];
    return new BandwidthMeter(programs, new Float32Array((smoke ? 1 << 24 : 1 << 28) / 4).fill(1));
  }

  async measure(bytesOfWeights: number): Promise<Bandwidths> {
    return {
      memory: await this.#best(this.#values.byteLength, 4),
      ofWeights: await this.#best(Math.min(bytesOfWeights, this.#values.byteLength), 12),
    };
  }

  async #best(bytes: number, repeats: number): Promise<number> {
    const rows = Math.floor(bytes / (4 * width));
    const x = hostTensor("float32", [rows, width], this.#values.subarray(0, rows * width));
    const v = hostTensor("float32", [1, width], this.#values.subarray(0, width));
    let best = 0;
    for (const program of this.#programs) {
      for (let i = 0; i < repeats; i++) {
        const started = performance.now();
        await program.run({ x, v });
        best = Math.max(best, (rows * width * 4 * 1000) / (performance.now() - started));
      }
    }
    return best;
  }

  async dispose(): Promise<void> {
    for (const program of this.#programs) await program.dispose();
  }
}
