import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, onTestFinished, vi } from "vitest";
import { createProgram } from "../../src/cli/program.ts";
import { exitCode } from "../../src/cli/run-command.ts";

export interface Outcome {
  code: number | null;
  signal?: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** The command in this process: all of it but the start of Node, which takes longer than a small model's training. */
export async function espalier(...args: readonly string[]): Promise<Outcome> {
  const outcome = { stdout: "", stderr: "" };
  const spies = (["stdout", "stderr"] as const).map((name) =>
    vi.spyOn(process[name], "write").mockImplementation((text) => {
      outcome[name] += String(text);
      return true;
    }),
  );
  try {
    const code = await exitCode(() => createProgram().parseAsync([...args], { from: "user" }));
    return { code, ...outcome };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** The command as a user starts it. */
export function startEspalier(args: readonly string[], options: { wrap?: (command: string[]) => string[]; stdin?: "pipe" } = {}) {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const plain = [process.execPath, "--import", "tsx", join(root, "src/cli/main.ts"), ...args];
  const [program, ...rest] = (options.wrap ?? ((command) => command))(plain) as [string, ...string[]];
  const child: ChildProcess = spawn(program, rest, { cwd: root, stdio: [options.stdin ?? "ignore", "pipe", "pipe"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const outcome = { stdout: "", stderr: "" };
  child.stdout!.on("data", (chunk) => (outcome.stdout += chunk));
  child.stderr!.on("data", (chunk) => (outcome.stderr += chunk));
  const done = new Promise<Outcome>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, ...outcome }));
  });
  return { child, done, outcome };
}

/** The one JSON object of `--json`, which is the last line and the only one that is JSON. */
export function summary(outcome: Outcome): Record<string, unknown> {
  expect(outcome.stderr).toBe("");
  expect(outcome.code).toBe(0);
  const lines = outcome.stdout.trimEnd().split("\n");
  expect(lines.filter((line) => line.startsWith("{"))).toHaveLength(1);
  return JSON.parse(lines.at(-1)!) as Record<string, unknown>;
}

/** A message for the user: on stderr, without a stack trace, with this exit code. Returns it. */
export function refusal({ code, stderr }: Outcome, expectedCode = 1): string {
  expect(stderr).not.toMatch(/^\s+at .*:\d+/m);
  expect({ code, stderr }).toMatchObject({ code: expectedCode });
  if (expectedCode === 1) expect(stderr).toMatch(/^espalier: .+\n$/s);
  return stderr;
}

/** A directory for one test file. */
export function scratch(): string {
  const directory = mkdtempSync(join(tmpdir(), "espalier-cli-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
