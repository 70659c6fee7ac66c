/**
 * Greedy decoding of sapling, one sequence. Every weight is read once per token, so the time a token cannot go below is
 * weights-bytes / bandwidth; the bandwidth is measured through ONNX Runtime in the same run, and for memory and cache apart, because a model as
 * small as sapling may stay in the cache.
 */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { Decoder, sample } from "../src/generate/index.ts";
import { elementCount, Random, symbol, trace } from "../src/graph/index.ts";
import { type CausalLM, LlamaForCausalLM, loadCausalLM } from "../src/models/index.ts";
import { matmul, sum } from "../src/ops/index.ts";
import { type Device, hostTensor } from "../src/runtime/index.ts";
import { cpu } from "../src/runtime/node.ts";
import { median, round } from "./machine.ts";

export interface DecodeBenchOptions {
  /** A few tokens that only show that the bench runs. */
  smoke?: boolean;
  /** Directory of the model. Default: sapling, or random weights of its shape where it is not built yet. */
  model?: string;
  /** Default: one and all cores are tried, and the faster one counts. */
  threads?: number;
}

const sapling = "models/sapling";

export async function benchDecode(options: DecodeBenchOptions = {}): Promise<Record<string, unknown>> {
  const directory = options.model ?? sapling;
  const isBuilt = existsSync(`${directory}/model.safetensors`);
  const model = (isBuilt ? loadCausalLM(directory) : await randomSapling()).freeze();
  // One thread has no other to wait for: with operators this small, and with other programs running, it may win.
  const threadCounts = options.threads ? [options.threads] : [...new Set([1, availableParallelism()])];
  const bandwidths: Bandwidths[] = [];
  const runs: DecodeRun[] = [];
  // One count after the other, with nothing left of the first: idle threads of ONNX Runtime spin, and would take time from the next.
  for (const threads of threadCounts) {
    const meter = await BandwidthMeter.create(cpu({ threads }), options.smoke ?? false);
    const run = await DecodeRun.create(cpu({ threads }), model, threads);
    await run.round(options.smoke ? 48 : 496); // warms up
    run.forget();
    for (let round = 0; round < (options.smoke ? 1 : 3); round++) {
      // The bandwidth is measured between the rounds, so that a machine whose speed drifts is compared with itself.
      bandwidths.push(await meter.measure(weightBytes(model)));
      await run.round(options.smoke ? 48 : 496);
    }
    await run.dispose();
    await meter.dispose();
    runs.push(run);
  }

  const best = runs.reduce((a, b) => (b.tokensPerSecond > a.tokensPerSecond ? b : a));
  const memory = Math.max(...bandwidths.map((b) => b.memory));
  const cache = Math.max(...bandwidths.map((b) => b.ofWeights));
  const bound = memory / weightBytes(model);
  return {
    tokensPerSecond: round(best.tokensPerSecond, 0),
    threads: best.threads,
    boundTokensPerSecond: round(bound, 0),
    shareOfBound: round(best.tokensPerSecond / bound, 3),
    weightsMB: round(weightBytes(model) / 1e6, 1),
    memoryGBPerSecond: round(memory / 1e9, 1),
    bandwidthMeasuredBy: "ONNX Runtime: the faster of a row sum and a matrix-vector product over 256 MB, the best of all runs",
    boundFromCacheTokensPerSecond: round(cache / weightBytes(model), 0),
    cacheGBPerSecond: round(cache / 1e9, 1),
    firstTokenMilliseconds: round(1000 * median(best.firstTokenSeconds), 2),
    promptTokens,
    millisecondsAtPast32: best.millisecondsAt(32),
    ...(!options.smoke && { millisecondsAtPast448: best.millisecondsAt(448) }),
    tokensPerSecondByThreads: Object.fromEntries(runs.map((run) => [run.threads, round(run.tokensPerSecond, 0)])),
    compileSeconds: round(best.compileSeconds, 2),
    ...(!options.model && { weights: isBuilt ? directory : "random, of sapling's shape" }),
  };
}

const promptTokens = 24;

/** Greedy decoding of one random prompt, timed step by step. */
class DecodeRun {
  readonly threads: number;
  readonly compileSeconds: number;
  readonly firstTokenSeconds: number[] = [];
  /** Of each round, by the length of the past. */
  readonly #stepSeconds: number[][] = [];
  readonly #decoder: Decoder;
  readonly #prompt: readonly number[];

  private constructor(decoder: Decoder, threads: number, compileSeconds: number) {
    const random = new Random(1);
    this.#decoder = decoder;
    this.#prompt = Array.from({ length: promptTokens }, () => random.integer(decoder.model.config.vocab_size));
    this.threads = threads;
    this.compileSeconds = compileSeconds;
  }

  static async create(device: Device, model: CausalLM, threads: number): Promise<DecodeRun> {
    const started = performance.now();
    const decoder = await Decoder.create(device, model);
    return new DecodeRun(decoder, threads, (performance.now() - started) / 1000);
  }

  /** Decodes until `length` tokens stand there. */
  async round(length: number): Promise<void> {
    const greedy = () => sample(decoding.logits(), [], {}, unused);
    const unused = new Random(0);
    const started = performance.now();
    const decoding = await this.#decoder.start([this.#prompt]);
    let next = greedy();
    this.firstTokenSeconds.push((performance.now() - started) / 1000);
    const steps: number[] = [];
    while (decoding.length < Math.min(length, this.#decoder.context)) {
      const stepStarted = performance.now();
      await decoding.push([next]);
      next = greedy();
      steps[decoding.length - 1] = (performance.now() - stepStarted) / 1000;
    }
    this.#stepSeconds.push(steps);
  }

  forget(): void {
    this.firstTokenSeconds.length = this.#stepSeconds.length = 0;
  }

  get tokensPerSecond(): number {
    const all = this.#stepSeconds.flatMap((steps) => steps.slice(promptTokens));
    return all.length / all.reduce((a, b) => a + b, 0);
  }

  /** The median around a length of the past. */
  millisecondsAt(past: number): number {
    return round(1000 * median(this.#stepSeconds.flatMap((steps) => steps.slice(past - 8, past + 8))), 3);
  }

  dispose(): Promise<void> {
    return this.#decoder.dispose();
  }
}

async function randomSapling(): Promise<LlamaForCausalLM> {
  const { saplingConfig } = await import("../recipes/sapling/config.ts");
  return new LlamaForCausalLM(saplingConfig);
}

/** Bytes of the weights that one token reads: an embedding that is not the head too is read in one row only. */
function weightBytes(model: CausalLM): number {
  const read = model.parameters().filter((p) => !model.head || p !== model.decoder.embedding.weight);
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
