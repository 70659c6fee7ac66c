import type { Example } from "../data/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { Tokenizer } from "../inputs/index.ts";
import type { Loaded, TaskOptions } from "../train/tasks/kind.ts";
import type { AnyTaskKind } from "../train/tasks/table.ts";
import type { Task } from "../train/tasks/task.ts";
import { modelDirectory } from "./model-directory.ts";

/** The task with a teacher, where one is asked for: what is measured stays the same. */
export async function withTeacher(
  task: Task,
  of: { kind: AnyTaskKind; loaded: Loaded; record: { readonly task: string }; examples: readonly Example[]; flags: TaskOptions },
): Promise<Task> {
  const { kind, loaded, record, examples, flags } = of;
  const { teacher: name, teacherShare = 0.5, temperature = 2 } = flags;
  if (name === undefined) {
    const lone = flags.teacherShare !== undefined ? "--teacher-share" : flags.temperature !== undefined ? "--temperature" : undefined;
    if (lone)
      throw new EspalierError("bad-option", `${lone} speaks of a teacher, and there is none. Give one with --teacher, or leave it out.`);
    return task;
  }
  const teacher: Loaded = await kind.load(await modelDirectory(name), record);
  checkTokenizers(name, tokenizerOf(loaded), tokenizerOf(teacher), examples);
  const classes = sharedClasses(loaded, teacher);
  const options = { alpha: 1 - teacherShare, temperature, ...(classes !== undefined && { classes }) };
  return { ...task, objective: kind.distilled!(loaded, teacher, options) };
}

const tokenizerOf = (loaded: Loaded) => (loaded as Loaded & { tokenizer: Tokenizer }).tokenizer;

/** Both models get the same ids, so these must mean the same to both. */
function checkTokenizers(name: string, student: Tokenizer, teacher: Tokenizer, examples: readonly Example[]): void {
  for (const { text, file, line } of examples.slice(0, 100)) {
    const [mine, theirs] = [student, teacher].map((tokenizer) => tokenizer.encode(text.slice(0, 2000), { addSpecialTokens: false }).join());
    if (mine === theirs) continue;
    throw new EspalierError(
      "bad-option",
      `The teacher ${name} has another tokenizer than the model: ${file} line ${line} becomes other tokens. Give a teacher of the same family.`,
    );
  }
}

/** Where the tables of language models with one tokenizer are padded to other sizes, the rows of the smaller one. */
function sharedClasses(student: Loaded, teacher: Loaded): number | undefined {
  const [mine, theirs] = [student, teacher].map(({ model }) => ("logits" in model ? (model.config.vocab_size as number) : undefined));
  return mine === undefined || theirs === undefined || mine === theirs ? undefined : Math.min(mine, theirs);
}
