/** `npm run pretrain:sapling`: every step of the recipe in order. Steps that are done are quick; an interrupted training continues. */
import { spawnSync } from "node:child_process";

for (const step of ["corpus", "tokenizer", "baselines", "pretrain", "export"]) {
  console.log(`── ${step}`);
  const { status } = spawnSync("npx", ["tsx", `recipes/sapling/${step}.ts`, ...(step === "pretrain" ? process.argv.slice(2) : [])], {
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}
