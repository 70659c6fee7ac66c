/** Several LoRA adapters as one, with the semantics of PEFT's add_weighted_adapter. */
import { Matrix, QrDecomposition, SingularValueDecomposition } from "ml-matrix";
import { loraScaling, type PeftAdapter, parsePeftConfig } from "../../checkpoints/index.ts";
import { EspalierError, Random, type Storage } from "../../graph/index.ts";
import { floats } from "../../nn/index.ts";
import { readStorage } from "../../runtime/stored-values.ts";
import { type MajoritySign, type SumOptions, weightedSum } from "./task-arithmetic.ts";

export interface CombineOptions {
  /**
   * - `cat`: exact; the rank is the sum of the ranks
   * - `svd`: the nearest update of the given rank
   * - `linear` and the others: A and B are summed apart, a rough approximation of the same rank; see {@link weightedSum}
   */
  type: "cat" | "svd" | SumOptions["type"];
  /** Share of the elements that ties, dare and magnitude_prune keep. */
  density?: number;
  /** Of ties and dare_ties. Default "total". */
  majoritySign?: MajoritySign;
  /** Of svd. Default: the largest of the adapters. */
  rank?: number;
  /** Of what dare keeps. Default 0. */
  seed?: number;
}

export interface WeightedAdapter {
  name: string;
  adapter: PeftAdapter;
  /** Negative ones take away. */
  weight: number;
}

/** The update of one adapter on one module: scale·B·A. */
interface Update {
  a: Float32Array;
  b: Float32Array;
  rank: number;
  /** Of the update, with the adapter's weight. */
  scale: number;
}

interface Factors {
  a: Float32Array;
  b: Float32Array;
  rank: number;
}

/** @throws EspalierError `not-combinable`, `bad-option` */
export function combineLora(parts: readonly WeightedAdapter[], options: CombineOptions): PeftAdapter {
  if (parts.length === 0) throw new EspalierError("bad-option", "There is no adapter to combine. Give at least one.");
  for (const part of parts) checkPart(part);
  const tensors = new Map<string, Storage>();
  const ranks = new Map<string, number>();
  const random = new Random(options.seed ?? 0);
  for (const [module, kind] of modulesOf(parts)) {
    const updates = parts.flatMap((part) => updateOf(part, module, kind));
    const { a, b, rank } = combined(updates, options, random, module);
    ranks.set(module, rank);
    tensors.set(`${module}.${kind.a}`, floats([rank, a.length / rank], a));
    tensors.set(`${module}.${kind.b}`, floats([b.length / rank, rank], b));
  }
  takeRest(parts, tensors);
  const [first] = parts.map(({ adapter }) => adapter.config);
  return { config: configOf(ranks, first!, fullModules(parts)), tensors };
}

const kinds = [
  { a: "lora_A.weight", b: "lora_B.weight" },
  { a: "lora_embedding_A", b: "lora_embedding_B" },
] as const;
type Kind = (typeof kinds)[number];

const isUpdate = (name: string): boolean => kinds.some(({ a, b }) => name.endsWith(`.${a}`) || name.endsWith(`.${b}`));

function checkPart({ name, adapter: { config, tensors } }: WeightedAdapter): void {
  if (config.peft_type !== "LORA")
    throw new EspalierError("not-combinable", `The adapter "${name}" is of the kind ${config.peft_type}; only LoRA adapters are combined.`);
  const odd = [...tensors.keys()].find((tensor) => /\.(lora_magnitude_vector|lora_B\.bias|trainable_tokens_delta)$/.test(tensor));
  if (odd !== undefined)
    throw new EspalierError(
      "not-combinable",
      `The adapter "${name}" holds ${odd}: updates with magnitudes (DoRA), biases or trained tokens of their own are not combined. Merge it into the base instead.`,
    );
}

function modulesOf(parts: readonly WeightedAdapter[]): Map<string, Kind> {
  const found = new Map<string, Kind>();
  for (const { adapter } of parts)
    for (const name of adapter.tensors.keys())
      for (const kind of kinds) if (name.endsWith(`.${kind.a}`)) found.set(name.slice(0, -kind.a.length - 1), kind);
  return found;
}

function updateOf({ adapter: { config, tensors }, weight }: WeightedAdapter, module: string, kind: Kind): Update[] {
  const [a, b] = [tensors.get(`${module}.${kind.a}`), tensors.get(`${module}.${kind.b}`)];
  if (!a || !b || config.peft_type !== "LORA") return [];
  const values = (storage: Storage) => readStorage(storage, "float32") as Float32Array;
  return [{ a: values(a), b: values(b), rank: a.shape[0]!, scale: weight * loraScaling(config, module).scale }];
}

function combined(updates: readonly Update[], options: CombineOptions, random: Random, module: string): Factors {
  const { type } = options;
  // One adapter alone is only weighted, as in PEFT.
  if (type === "cat" && updates.length > 0) return concatenated(updates);
  if (type === "svd") return truncated(concatenated(updates), options.rank ?? Math.max(...updates.map(({ rank }) => rank)));
  const [{ rank }] = updates as [Update];
  if (updates.some((update) => update.rank !== rank))
    throw new EspalierError(
      "not-combinable",
      `The adapters have the ranks ${updates.map((update) => update.rank).join(", ")} at "${module}"; ${type} needs one rank. Use cat or svd.`,
    );
  const sumOptions = { type: type as SumOptions["type"], density: options.density, majoritySign: options.majoritySign, random };
  // The sign goes to one of the two factors only.
  const roots = updates.map(({ scale }) => Math.sqrt(Math.abs(scale)));
  return {
    a: weightedSum(
      updates.map(({ a }) => a),
      updates.map(({ scale }, i) => Math.sign(scale) * roots[i]!),
      sumOptions,
    ),
    b: weightedSum(
      updates.map(({ b }) => b),
      roots,
      sumOptions,
    ),
    rank,
  };
}

/** The scales go into A. */
function concatenated(updates: readonly Update[]): Factors {
  const rank = updates.reduce((sum, update) => sum + update.rank, 0);
  const outputs = updates[0]!.b.length / updates[0]!.rank;
  const a = Float32Array.from(updates.flatMap(({ a, scale }) => Array.from(a, (value) => scale * value)));
  const b = new Float32Array(outputs * rank);
  let column = 0;
  for (const update of updates) {
    for (let o = 0; o < outputs; o++) b.set(update.b.subarray(o * update.rank, (o + 1) * update.rank), o * rank + column);
    column += update.rank;
  }
  return { a, b, rank };
}

/** The nearest B·A of a smaller rank. The product itself is not made where its factors are thin: Q·R of each, and the SVD of what lies between. */
function truncated({ a, b, rank: full }: Factors, wanted: number): Factors {
  const [inputs, outputs] = [a.length / full, b.length / full];
  if (!Number.isInteger(wanted) || wanted < 1)
    throw new EspalierError("bad-option", `svd: the rank ${wanted} is no positive whole number.`);
  const rank = Math.min(wanted, inputs, outputs);
  const matrix = (values: Float32Array, rows: number) => Matrix.from1DArray(rows, values.length / rows, values);
  const [A, B] = [matrix(a, full), matrix(b, outputs)];
  const thin = full <= Math.min(inputs, outputs);
  const [left, right] = thin ? [new QrDecomposition(B), new QrDecomposition(A.transpose())] : [undefined, undefined];
  const core = left && right ? left.upperTriangularMatrix.mmul(right.upperTriangularMatrix.transpose()) : B.mmul(A);
  const { leftSingularVectors, rightSingularVectors, diagonal } = new SingularValueDecomposition(core, { autoTranspose: true });
  const u = left ? left.orthogonalMatrix.mmul(leftSingularVectors) : leftSingularVectors;
  const v = right ? right.orthogonalMatrix.mmul(rightSingularVectors) : rightSingularVectors;
  // Where the adapters have less rank in all than is wanted, the rest is zero.
  const entry = (m: Matrix, row: number, column: number) => (column < m.columns ? m.get(row, column) : 0);
  return {
    a: Float32Array.from({ length: rank * inputs }, (_, i) => entry(v, i % inputs, Math.floor(i / inputs))),
    b: Float32Array.from({ length: outputs * rank }, (_, i) => entry(u, Math.floor(i / rank), i % rank) * (diagonal[i % rank] ?? 0)),
    rank,
  };
}

/** Modules and biases that were trained in full go over as they are, where one adapter alone has them. */
function takeRest(parts: readonly WeightedAdapter[], tensors: Map<string, Storage>): void {
  const owners = new Map<string, string>();
  for (const { name, adapter } of parts)
    for (const [tensor, storage] of adapter.tensors) {
      if (isUpdate(tensor)) continue;
      const owner = owners.get(tensor);
      if (owner !== undefined && owner !== name)
        throw new EspalierError(
          "not-combinable",
          `The adapters "${owner}" and "${name}" both hold ${tensor}, trained in full: the two cannot be combined.`,
        );
      owners.set(tensor, name);
      tensors.set(tensor, storage);
    }
}

const fullModules = (parts: readonly WeightedAdapter[]): string[] => [
  ...new Set(parts.flatMap(({ adapter }) => adapter.config.modules_to_save ?? [])),
];

/** Alpha equals the rank: the scales are in the tensors already. */
function configOf(ranks: ReadonlyMap<string, number>, first: PeftAdapter["config"], full: string[]): PeftAdapter["config"] {
  const rank = Math.max(...ranks.values());
  const others = [...ranks].filter(([, own]) => own !== rank);
  const patterns = Object.fromEntries(others.map(([module, own]) => [module.replace(/[.]/g, "\\."), own]));
  return parsePeftConfig<"LORA">(
    {
      peft_type: "LORA",
      r: rank,
      lora_alpha: rank,
      target_modules: [...ranks.keys()].sort(),
      rank_pattern: patterns,
      alpha_pattern: patterns,
      bias: first.peft_type === "LORA" ? first.bias : "none",
      fan_in_fan_out: first.peft_type === "LORA" && first.fan_in_fan_out,
      modules_to_save: full.length > 0 ? full : null,
      base_model_name_or_path: first.base_model_name_or_path,
      task_type: first.task_type,
      inference_mode: true,
    },
    "combined",
  );
}
