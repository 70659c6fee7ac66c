import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { isRunning, processSpace, processStart } from "./process-identity.ts";

const hasProc = existsSync("/proc/self/stat");

test("a process runs until it is killed", async () => {
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
  expect(isRunning(child.pid!)).toBe(true);
  child.kill("SIGKILL");
  await new Promise((resolve) => child.on("exit", resolve));
  expect(isRunning(child.pid!)).toBe(false);
});

test.skipIf(!hasProc)("another process of the same number is another process", () => {
  const start = processStart(process.pid)!;
  expect(start).toBeGreaterThan(0);
  expect(isRunning(process.pid, start)).toBe(true);
  expect(isRunning(process.pid, start - 1)).toBe(false);
  expect(processStart(0x7fffffff)).toBeUndefined();
  expect(processSpace().boot).toMatch(/^[0-9a-f-]{36}$/);
});

test.skipIf(!hasProc)("a killed process whose parent has not looked runs no longer", async () => {
  // The shell starts a process, prints its number, and becomes a program that never waits for it.
  const shell = spawn("sh", ["-c", "sleep 100 & echo $!; exec sleep 100"]);
  const pid = Number(await new Promise<string>((resolve) => shell.stdout.once("data", (text) => resolve(String(text)))));
  expect(isRunning(pid)).toBe(true);
  process.kill(pid, "SIGKILL");
  for (let i = 0; i < 100 && isRunning(pid); i++) await setTimeout(10);
  expect(isRunning(pid)).toBe(false);
  expect(existsSync(`/proc/${pid}`)).toBe(true);
  shell.kill("SIGKILL");
});
