/** `npm run reproduce -- <family>/<slug> [--smoke] [--json]`. Exits with 1 where the claim does not hold. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { machine, round } from "../bench/machine.ts";
import { mean, type Reproduction, spread } from "./reproduction.ts";
import { pbtReproduction } from "./search/pbt.ts";

const reproductions: readonly Reproduction[] = [pbtReproduction];

async function reproduce(name: string, { smoke = false, json = false }: { smoke?: boolean; json?: boolean }): Promise<boolean> {
  const reproduction = reproductions.find((r) => r.name === name);
  if (!reproduction) throw new Error(`There is no reproduction "${name}"; there is ${reproductions.map((r) => r.name).join(", ")}.`);
  const { claim, setup, notes = [] } = reproduction;
  console.log(`${name}\nClaim: ${claim}\nSetup: ${setup}\n`);
  const began = performance.now();
  const { measurements, checks } = await reproduction.run({ smoke, log: (line) => console.log(line) });
  const seconds = round((performance.now() - began) / 1000, 1);
  const rounded = Object.entries(measurements).map(([what, seeds]) => {
    const perSeed = seeds.map((value) => round(value, 4));
    return [what, { perSeed, mean: round(mean(seeds), 4), spread: round(spread(seeds), 4) }] as const;
  });
  const width = Math.max(...rounded.map(([what]) => what.length));
  console.log(`\n${"".padEnd(width)}      mean    spread  per seed`);
  for (const [what, { perSeed, mean, spread }] of rounded)
    console.log(`${what.padEnd(width)}  ${mean.toFixed(4).padStart(8)}  ${spread.toFixed(4).padStart(8)}  ${perSeed.join(" ")}`);
  console.log();
  for (const { what, value, relation, bound, holds } of checks)
    console.log(`${smoke ? "   " : holds ? "yes" : "NO "}  ${what}: ${value.toFixed(4)} ${relation} ${bound.toFixed(4)}`);
  const verdict = smoke ? "not judged" : checks.every(({ holds }) => holds) ? "holds" : "does not hold";
  console.log(`\nThe claim ${smoke ? "is not judged at this size" : verdict} (${seconds} s).`);
  for (const note of notes) console.log(`Note: ${note}`);
  const result = { name, claim, setup, notes, verdict, checks, measurements: Object.fromEntries(rounded), seconds, machine: machine() };
  if (!smoke) {
    const file = fileURLToPath(new URL(`results/${name}.json`, import.meta.url));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
  }
  if (json) console.log(JSON.stringify(result));
  return verdict !== "does not hold";
}

new Command("reproduce")
  .description(`Reproduces what a method's paper claims, on a small scale: ${reproductions.map((r) => r.name).join(", ")}.`)
  .argument("<name>")
  .option("--smoke", "a few seconds, without a verdict")
  .option("--json", "print the result as one JSON object in the last line")
  .action(async (name: string, flags: { smoke?: boolean; json?: boolean }) => {
    if (!(await reproduce(name, flags))) process.exitCode = 1;
  })
  .parseAsync()
  .catch((error: Error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
