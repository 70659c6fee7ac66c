import { CommanderError } from "commander";
import { EspalierError } from "../graph/index.ts";
import { Interrupted } from "./signals.ts";

/** Runs a command and ends the process with its {@link exitCode}. */
export async function runCommand(command: () => Promise<unknown>): Promise<never> {
  // Whoever reads the output may have seen enough (`espalier methods | head -1`).
  process.stdout.on("error", ({ code }: NodeJS.ErrnoException) => process.exit(code === "EPIPE" ? 0 : 1));
  process.exit(await exitCode(command));
}

/**
 * 0 done, 1 a problem that the message explains, 2 wrong usage, 130 interrupted.
 * Anything else that is thrown is a bug of ours and keeps its stack trace.
 */
export async function exitCode(command: () => Promise<unknown>): Promise<number> {
  try {
    await command();
    return 0;
  } catch (error) {
    if (error instanceof Interrupted) return 130;
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof EspalierError) {
      process.stderr.write(`espalier: ${error.message}\n`);
      return 1;
    }
    throw error;
  }
}
