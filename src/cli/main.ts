#!/usr/bin/env node
import { CommanderError } from "commander";
import { EspalierError } from "../graph/index.ts";
import { createProgram } from "./program.ts";
import { Interrupted } from "./signals.ts";

/** Exit codes: 0 done, 1 a problem that the message explains, 2 wrong usage, 130 interrupted. */
async function main(): Promise<number> {
  try {
    await createProgram().parseAsync(process.argv);
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

process.exit(await main());
