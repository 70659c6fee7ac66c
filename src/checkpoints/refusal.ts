import { EspalierError } from "../graph/errors.ts";

/**
 * For tests: the code and message of the {@link EspalierError} that `run` throws, as the person who caused it reads it. Any other
 * error, a TypeError say, passes through and fails the test.
 *
 * @param directory is shown as "…" in the message, so that a test can state the whole text
 */
export function refusal(run: () => unknown, directory?: string): { code: string; message: string } {
  try {
    run();
  } catch (error) {
    if (!(error instanceof EspalierError)) throw error;
    return { code: error.code, message: directory ? error.message.replaceAll(directory, "…") : error.message };
  }
  throw new Error("expected an EspalierError, but nothing was refused");
}
