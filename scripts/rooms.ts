/** The rooms of `src/` in the order of the house: a room may import itself and those above it, never those below. */
export const rooms = [
  ["graph"],
  ["ops"],
  ["autodiff"],
  ["onnx"],
  ["runtime"],
  ["nn"],
  ["checkpoints"],
  ["models"],
  ["inputs"],
  ["data"],
  ["generate"],
  ["train"],
  ["methods"],
  ["programs"],
  ["serve", "studio", "cli"],
] as const;

/** The only files that may import an ONNX Runtime package as a value. */
const ortFiles = new Set(["src/runtime/node.ts", "src/runtime/web.ts"]);

/** Faces that a browser loads: nothing behind them may import from Node. */
const browserFaces = [
  "src/graph/index.ts",
  "src/ops/index.ts",
  "src/autodiff/index.ts",
  "src/onnx/index.ts",
  "src/runtime/index.ts",
  "src/runtime/web.ts",
  "src/nn/index.ts",
  "src/models/families/llama.ts",
  "src/models/families/index.ts",
  "src/inputs/index.ts",
  "src/data/index.ts",
];

export interface Import {
  /** The file imported, relative to the root (`src/graph/index.ts`), or the package's specifier. */
  target: string;
  typeOnly: boolean;
}

/** Every broken rule, one sentence each. `imports` maps each source file to what it imports. */
export function brokenRules(imports: ReadonlyMap<string, readonly Import[]>): string[] {
  const broken: string[] = [];
  const level = (file: string) => rooms.findIndex((names) => (names as readonly string[]).includes(file.split("/")[1] ?? ""));
  for (const [file, list] of imports) {
    const isTest = /\.test\.ts$/.test(file);
    if (level(file) < 0 && file !== "src/index.ts") broken.push(`${file} stands in no room of scripts/rooms.ts`);
    for (const { target, typeOnly } of list) {
      if (/^onnxruntime-(node|web)/.test(target) && !ortFiles.has(file) && !typeOnly)
        broken.push(`${file} imports ${target}; only ${[...ortFiles].join(" and ")} may`);
      // A test may reach for whatever it needs to show its point.
      if (!target.startsWith("src/") || isTest || file === "src/index.ts") continue;
      if (level(target) > level(file)) broken.push(`${file} imports ${target}, which stands below it`);
      const [own, other] = [file.split("/")[1], target.split("/")[1]];
      if (level(target) === level(file) && own !== other) broken.push(`${file} imports ${target}, a neighbouring room`);
    }
  }
  for (const face of browserFaces.filter((f) => imports.has(f))) {
    const chain = pathToNode(face, imports);
    if (chain) broken.push(`a browser loads ${face}, which reaches Node: ${chain.join(" → ")}`);
  }
  return broken;
}

/** The shortest chain of value imports from `face` to a `node:` module. */
function pathToNode(face: string, imports: ReadonlyMap<string, readonly Import[]>): string[] | undefined {
  const queue = [[face]];
  const seen = new Set([face]);
  for (const chain of queue) {
    for (const { target, typeOnly } of imports.get(chain.at(-1)!) ?? []) {
      if (typeOnly || seen.has(target)) continue;
      seen.add(target);
      if (target.startsWith("node:") || target === "onnxruntime-node") return [...chain, target];
      if (imports.has(target)) queue.push([...chain, target]);
    }
  }
  return undefined;
}
