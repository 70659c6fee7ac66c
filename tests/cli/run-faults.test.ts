/** What may go wrong around a run, through the command. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { espalier, refusal, scratch, startEspalier } from "./command.ts";
import { sentences, writeLabelled, writeTinyModel } from "./tiny-model.ts";

const directory = scratch();
const at = (name: string) => join(directory, name);
const model = writeTinyModel(at("model"));
const data = writeLabelled(at("data.jsonl"));
const base = ["train", "--no-config", "--model", model, "--steps", "1", "--max-length", "48", "--threads", "1"];

function write(name: string, content: string): string {
  writeFileSync(at(name), content);
  return at(name);
}

test("one example cannot be trained on and held out, and a file without any is no evaluation", async () => {
  const one = write("one.jsonl", `${JSON.stringify({ text: sentences[0], label: "tree" })}\n`);
  expect(refusal(await espalier(...base, "--data", one, "--run", at("one")))).toMatch(/one\.jsonl: its only example .*Give more examples/);
  const empty = write("empty.jsonl", "");
  expect(refusal(await espalier(...base, "--data", data, "--eval-data", empty, "--run", at("empty")))).toContain("empty.jsonl: is empty");
  expect(existsSync(at("one")) || existsSync(at("empty"))).toBe(false);
});

const canMount = (() => {
  try {
    execFileSync("unshare", ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

test.skipIf(!canMount)("a directory on a read-only disk is refused before anything is computed", async () => {
  mkdirSync(at("disk"));
  const wrap = (command: string[]) => [
    "unshare",
    "-rm",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs "$0" && mkdir "$0"/run && mount -o remount,ro "$0" && exec "$@"',
    at("disk"),
    ...command,
  ];
  const outcome = await startEspalier([...base, "--data", data, "--run", join(at("disk"), "run")], { wrap }).done;
  expect(refusal(outcome)).toMatch(/disk\/run: cannot be written to \(EROFS\)\. Give another --run\./);
  expect(outcome.stdout).not.toContain("base ");
});
