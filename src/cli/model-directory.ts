/** What `--model` and `--adapter` name: a path, or a model on the Hugging Face Hub, which is downloaded. */
import { existsSync } from "node:fs";
import { downloadModel, parseHubId } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";
import { interruption } from "./signals.ts";
import { formatBytes, type Progress, Terminal } from "./terminal.ts";

/**
 * The path to open: what exists is a path, and what does not may be a name such as `org/name`.
 *
 * @param terminal for the bar and the notes; standard error, since standard output belongs to the command's result
 * @throws Interrupted
 * @throws EspalierError `checkpoint-missing` where it can be neither, and what `downloadModel` throws
 */
export async function modelDirectory(nameOrPath: string, terminal: Terminal = new Terminal(process.stderr)): Promise<string> {
  if (existsSync(nameOrPath)) return nameOrPath;
  if (!parseHubId(nameOrPath))
    throw new EspalierError(
      "checkpoint-missing",
      `${nameOrPath}: cannot be opened, there is no such directory. Give the directory that holds the model's files. A model on the Hugging Face Hub is named org/name.`,
    );
  const interrupt = interruption(() => terminal.line("Stopped; what has arrived is kept for the next time."));
  let bar: Progress | undefined;
  let barTotal = 0;
  try {
    return await downloadModel(nameOrPath, {
      signal: interrupt.signal,
      onNote: (note) => terminal.line(note),
      onProgress({ file, done, total }) {
        if (total !== barTotal) bar = undefined; // an index of shards comes first, in a round of its own
        bar ??= terminal.progress("download", total, formatBytes);
        barTotal = total;
        bar.update(done, file);
      },
    });
  } catch (error) {
    interrupt.check();
    if (!(error instanceof EspalierError) || !mistypedPath.has(error.code)) throw error;
    throw new EspalierError(error.code, `${nameOrPath}: there is no such path here. ${error.message}`, { cause: error });
  } finally {
    interrupt.dispose();
    terminal.stopProgress();
  }
}

/** Codes of what may come of a path with a slip of the pen. */
const mistypedPath = new Set(["hub-missing", "hub-offline"]);
