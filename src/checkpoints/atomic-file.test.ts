import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { EspalierError } from "../graph/errors.ts";
import { writeFileAtomically } from "./atomic-file.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const room = pathToFileURL(fileURLToPath(new URL("./", import.meta.url))).href;

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-atomic-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

const text = (value: string) => (append: (bytes: Uint8Array) => void) => append(new TextEncoder().encode(value));

test("writes a new file and replaces an old one, leaving nothing beside it", () => {
  const file = join(directory, "a.txt");
  writeFileAtomically(file, text("one"));
  writeFileAtomically(file, (append) => {
    text("tw")(append);
    expect(readFileSync(file, "utf8")).toBe("one");
    text("o")(append);
  });
  expect(readFileSync(file, "utf8")).toBe("two");
  expect(readdirSync(directory)).toEqual(["a.txt"]);
});

test("a failure half way keeps the old file and its own error", () => {
  const file = join(directory, "a.txt");
  writeFileSync(file, "old");
  const own = new EspalierError("some-code", "the source is gone");
  expect(() =>
    writeFileAtomically(file, (append) => {
      text("half")(append);
      throw own;
    }),
  ).toThrow(own);
  expect(readFileSync(file, "utf8")).toBe("old");
  expect(readdirSync(directory)).toEqual(["a.txt"]);
});

test("a missing directory and a directory in the file's place are named", () => {
  expect(() => writeFileAtomically(join(directory, "no", "a.txt"), text("x"))).toThrow(
    new EspalierError(
      "not-writable",
      `${join(directory, "no", "a.txt")}: cannot be written, ${join(directory, "no")} is not a directory. Create it first.`,
    ),
  );
  mkdirSync(join(directory, "taken"));
  expect(() => writeFileAtomically(join(directory, "taken"), text("x"))).toThrow(
    /taken: cannot be written \(EISDIR.*\)\. Nothing was changed there/,
  );
  expect(readdirSync(directory)).toEqual(["taken"]);
});

/** Runs a script in a mount namespace of its own, where `disk` is a file system of 64 kB that vanishes with the process. */
function onSmallDisk(script: string): string {
  const disk = join(directory, "disk");
  mkdirSync(disk);
  const file = join(directory, "script.ts");
  writeFileSync(file, script);
  const shell = 'mount -t tmpfs -o size=64k tmpfs "$1" && exec "$2" --import tsx "$3" "$1"';
  const command = ["-rm", "sh", "-c", shell, "sh", disk, process.execPath, file];
  return execFileSync("unshare", command, { cwd: root, encoding: "utf8" });
}

const smallDisks = (() => {
  try {
    execFileSync("unshare", ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

// What it did is printed by the child: the error's code and message, the files on the disk, and the old checkpoint's values.
const saveTooMuch = (prepare: string) => `
  import { execFileSync } from "node:child_process";
  import { readdirSync } from "node:fs";
  import { openSafetensors, writeSafetensors } from "${room}safetensors.ts";
  import { readStorage } from "${room}../runtime/stored-values.ts";
  const [disk] = process.argv.slice(2);
  const file = disk + "/model.safetensors";
  const tensor = (length, value) => ({ kind: "memory", dtype: "float32", shape: [length], data: new Float32Array(length).fill(value) });
  writeSafetensors(file, { w: tensor(3, 7) });
  ${prepare}
  try {
    writeSafetensors(file, { w: tensor(100_000, 1) });
  } catch ({ name, code, message }) {
    const old = [...readStorage(openSafetensors(file).tensors.get("w"))];
    console.log(JSON.stringify({ name, code, message: message.replace(disk, "…"), files: readdirSync(disk), old }));
  }`;

describe.skipIf(!smallDisks)("on a disk of its own", () => {
  test("a full disk leaves the old checkpoint intact and no temporary file", () => {
    expect(JSON.parse(onSmallDisk(saveTooMuch("")))).toEqual({
      name: "EspalierError",
      code: "disk-full",
      message:
        "…/model.safetensors: cannot be written, the disk or quota is full (ENOSPC). Nothing was changed there: a file of that name is as it was, and no temporary file is left. Free some space or write to another disk.",
      files: ["model.safetensors"],
      old: [7, 7, 7],
    });
  });

  test("a read-only disk is called that", () => {
    const readOnly = 'execFileSync("mount", ["-o", "remount,ro", disk]);';
    expect(JSON.parse(onSmallDisk(saveTooMuch(readOnly)))).toEqual({
      name: "EspalierError",
      code: "not-writable",
      message:
        "…/model.safetensors: cannot be written, its directory is read-only for you (EROFS). Nothing was changed there: a file of that name is as it was, and no temporary file is left. Choose a directory that you may write to.",
      files: ["model.safetensors"],
      old: [7, 7, 7],
    });
  });
});
