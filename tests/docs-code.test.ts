/** The TypeScript of the README and of docs/ fits the package as it is: its blocks are type-checked against src/ under the names that package.json exports. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (file: string) => readFileSync(root + file, "utf8");

/** What pages speak of without making it: blocks may use these, and declare their own in their place. */
const given = `
declare global {
  const data: import("espalier/data").BatchSource;
  const device: import("espalier/runtime").Device;
  const directory: string;
  const ids: number[];
  const model: import("espalier/models").OnnxModel;
  const settings: import("espalier").TrainOptions;
  const tokenizer: import("espalier/inputs").Tokenizer;
}
export {};
`;

/** The blocks of a page, as files that have the numbers of its lines. */
function blocks(page: string): [file: string, text: string][] {
  const text = read(page);
  return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(({ 1: code, index }) => {
    const before = text.slice(0, index).split("\n").length;
    return [`${root}${page}.${before}.ts`, `${"\n".repeat(before)}${code}\nexport {};\n`];
  });
}

/** Compiler options by which the package's names stand for its sources. */
function compilerOptions(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile);
  const { exports } = JSON.parse(read("package.json")) as { exports: Record<string, string | { default: string }> };
  const paths = Object.entries(exports).flatMap(([name, target]) =>
    typeof target === "string" ? [] : [[name.replace(".", "espalier"), [target.default.replace("./dist/", "./src/").replace(/js$/, "ts")]]],
  );
  const { options } = ts.parseJsonConfigFileContent({ ...config, files: [], include: [] }, ts.sys, root);
  return { ...options, paths: Object.fromEntries(paths) as ts.MapLike<string[]> };
}

function problems(files: ReadonlyMap<string, string>): string[] {
  const options = compilerOptions();
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (name) => files.has(name) || fileExists(name);
  host.readFile = (name) => files.get(name) ?? readFile(name);
  host.getSourceFile = (name, version, ...rest) => {
    const text = files.get(name);
    return text === undefined ? getSourceFile(name, version, ...rest) : ts.createSourceFile(name, text, version);
  };
  const program = ts.createProgram([...files.keys()], options, host);
  return [...files.keys()].flatMap((name) => {
    const source = program.getSourceFile(name)!;
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(({ start, messageText }) => {
      const line = source.getLineAndCharacterOfPosition(start ?? 0).line + 1;
      return `${name.slice(root.length).replace(/\.\d+\.ts$/, "")}:${line}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`;
    });
  });
}

test("the code of every page is sound", { timeout: 120_000 }, () => {
  const pages = ["README.md", ...readdirSync(`${root}docs`).flatMap((name) => (name.endsWith(".md") ? [`docs/${name}`] : []))];
  const wrong: [string, string] = [`${root}docs/wrong.md.1.ts`, 'import { train } from "espalier";\ntrain({ steps: "many" });\n'];
  const found = problems(new Map([[`${root}docs/given.ts`, given], wrong, ...pages.flatMap(blocks)]));
  // That a mistake is seen at all.
  expect(found.filter((problem) => problem.startsWith("docs/wrong.md"))).toEqual([expect.stringContaining("docs/wrong.md:2: ")]);
  expect(found.filter((problem) => !problem.startsWith("docs/wrong.md"))).toEqual([]);
});
