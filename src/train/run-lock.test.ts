import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, onTestFinished, test } from "vitest";
import { processSpace, processStart } from "../runtime/process-identity.ts";
import { lockRun } from "./run-lock.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "espalier-lock-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const file = () => join(directory, "run.lock");
const hasProc = existsSync("/proc/self/stat");

/** A process that does nothing until the test ends. */
function idle(): number {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
  onTestFinished(() => void child.kill("SIGKILL"));
  return child.pid!;
}

/** Leaves the lock that another process would. */
const held = (owner: object) =>
  writeFileSync(file(), JSON.stringify({ pid: process.pid, ...processSpace(), nonce: "0123456789ab", ...owner }));

test("the second to come is refused and told who holds the lock; given back, it is free", () => {
  const lock = lockRun(directory);
  expect(() => lockRun(directory)).toThrow(
    `${directory} is being written by another run in this process (${process.pid}): two runs in one directory would destroy each other.`,
  );
  lock.release();
  expect(readdirSync(directory)).toEqual([]);
  lockRun(directory).release();
});

test("another process is named, however old its lock is", () => {
  const pid = idle();
  held({ pid, start: processStart(pid) });
  utimesSync(file(), new Date(0), new Date(0));
  expect(() => lockRun(directory)).toThrow(`is being written by process ${pid}: two runs`);
  utimesSync(file(), new Date("2100-01-01"), new Date("2100-01-01"));
  expect(() => lockRun(directory)).toThrow(`process ${pid}`);
});

test.skipIf(!hasProc).each([
  ["of a process that ended", { pid: 0x7ffffff0 }],
  ["of an earlier process of the same number", { pid: process.pid, start: 1 }],
  ["from before the machine started", { pid: process.pid, boot: "an earlier boot" }],
])("a lock %s is taken over", (_, owner) => {
  held(owner);
  const lock = lockRun(directory);
  expect(readdirSync(directory)).toEqual(["run.lock"]);
  expect(JSON.parse(readFileSync(file(), "utf8"))).toMatchObject({ pid: process.pid, start: processStart(process.pid) });
  expect(() => lockRun(directory)).toThrow("another run in this process");
  lock.release();
});

test("a lock of another machine stays: nobody can tell from here whether its holder runs", () => {
  held({ pid: 7, host: "elsewhere", boot: "another", namespace: 1 });
  expect(() => lockRun(directory)).toThrow(/process 7 of elsewhere, which cannot be asked from here.* remove .*run\.lock/s);
});

test("a lock that cannot be read counts for nothing, nor does what a killed take-over left", () => {
  writeFileSync(file(), "");
  writeFileSync(join(directory, "run.lock.0123456789ab"), JSON.stringify({ pid: 0x7ffffff0, ...processSpace(), nonce: "0123456789ab" }));
  const lock = lockRun(directory);
  expect(readdirSync(directory)).toEqual(["run.lock"]);
  lock.release();
});

test("a lock that somebody else has taken over is not given back", () => {
  const lock = lockRun(directory);
  held({ pid: 1 });
  lock.release();
  expect(existsSync(file())).toBe(true);
});

test("of many processes that find a dead one's lock, one takes it", async () => {
  held({ pid: 0x7ffffff0, start: 1 });
  const script = `
    import { lockRun } from ${JSON.stringify(new URL("./run-lock.ts", import.meta.url).href)};
    process.stdout.write("ready ");
    process.stdin.once("data", () => {
      try { lockRun(${JSON.stringify(directory)}); process.stdout.write("taken"); } catch (e) { process.stdout.write(e.code); }
      process.stdin.once("data", () => process.exit(0));
    });`;
  const children = Array.from({ length: 4 }, () => {
    const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script]);
    onTestFinished(() => void child.kill("SIGKILL"));
    const said = { text: "" };
    child.stdout.on("data", (text) => (said.text += text));
    return { child, said };
  });
  const all = async (pattern: RegExp) => {
    while (!children.every(({ said }) => pattern.test(said.text))) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await all(/ready/);
  for (const { child } of children) child.stdin.write("go");
  await all(/taken|run-locked/);
  expect(children.map(({ said }) => said.text.slice(6)).sort()).toEqual(["run-locked", "run-locked", "run-locked", "taken"]);
});
