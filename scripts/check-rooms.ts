/** `npm run check` runs this: reads the imports of every file below src/ and states every broken rule of scripts/rooms.ts. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, posix } from "node:path";
import ts from "typescript";
import { brokenRules, type Import } from "./rooms.ts";

function importsOf(file: string): Import[] {
  const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.ESNext);
  const found: Import[] = [];
  for (const statement of source.statements) {
    if (
      !(ts.isImportDeclaration(statement) || ts.isExportDeclaration(statement)) ||
      !statement.moduleSpecifier ||
      !ts.isStringLiteral(statement.moduleSpecifier)
    )
      continue;
    const specifier = statement.moduleSpecifier.text;
    const typeOnly = ts.isExportDeclaration(statement) ? statement.isTypeOnly : importIsTypeOnly(statement.importClause);
    found.push({ target: specifier.startsWith(".") ? posix.join(dirname(file), specifier) : specifier, typeOnly });
  }
  return found;
}

function importIsTypeOnly(clause: ts.ImportClause | undefined): boolean {
  if (!clause) return false;
  if (clause.isTypeOnly) return true;
  const bindings = clause.namedBindings;
  return (
    !clause.name &&
    bindings !== undefined &&
    ts.isNamedImports(bindings) &&
    bindings.elements.length > 0 &&
    bindings.elements.every((e) => e.isTypeOnly)
  );
}

const files = (readdirSync("src", { recursive: true }) as string[]).filter((f) => f.endsWith(".ts")).map((f) => posix.join("src", f));
const broken = brokenRules(new Map(files.map((f) => [f, importsOf(f)])));
for (const line of broken) console.error(line);
console.log(broken.length === 0 ? `rooms: ${files.length} files keep the rules` : `rooms: ${broken.length} broken rules`);
process.exit(broken.length === 0 ? 0 : 1);
