import type { z } from "zod";
import type { PeftConfig, PeftType } from "../checkpoints/index.ts";
import { EspalierError } from "../graph/index.ts";
import type { Method } from "../train/method.ts";
import type { Graft } from "./adapters/graft.ts";

/** What the catalogue says of a method. */
export interface MethodCard {
  /** Kebab-case name, unique in the catalogue. */
  slug: string;
  family: string;
  /** One line. */
  summary: string;
  paper: { title: string; authors: string; year: number };
  /** The parts of training that it changes. */
  seams: readonly ("weights" | "selection" | "objective" | "data" | "search" | "program" | "model")[];
}

/** How a method puts the adapters onto a model that PEFT saves of its kind. */
export interface PeftReader {
  /** PEFT's name of the kind, `peft_type`. */
  readonly type: PeftType;
  /** Makes the places for the adapter's tensors. `config` is of the kind. */
  graft(graft: Graft, config: PeftConfig): void;
}

/** An entry of the catalogue: call it with options. */
export interface Factory<Input, Made> {
  (options?: Input): Made;
  readonly card: MethodCard;
  /** Options with types and defaults. */
  readonly schema: z.ZodType;
}

/** A method that changes a training run: call it with options to get what the trainer takes. */
export interface MethodFactory<Input, M extends Method = Method> extends Factory<Input, M> {
  /** Of methods whose adapters PEFT knows. */
  readonly peft: PeftReader | undefined;
}

/** Defines a method: its card, its options and what it does. Wrong options are refused with the name of the option. */
export const defineMethod = <S extends z.ZodType, M extends Method>(
  card: MethodCard,
  schema: S,
  create: (options: z.output<S>) => M,
  peft?: PeftReader,
): MethodFactory<z.input<S>, M> => Object.assign(define(card, schema, create), { peft });

/** As {@link defineMethod}, for a method that stands over training runs and chooses what they are trained with. */
export const defineSearch = <S extends z.ZodType, Search>(
  card: MethodCard,
  schema: S,
  create: (options: z.output<S>) => Search,
): Factory<z.input<S>, Search> => define(card, schema, create);

function define<S extends z.ZodType, Made>(card: MethodCard, schema: S, create: (options: z.output<S>) => Made): Factory<z.input<S>, Made> {
  const factory = (options?: z.input<S>): Made => {
    const parsed = schema.safeParse(options ?? {});
    if (!parsed.success) {
      const problems = parsed.error.issues.map((issue) => `  ${issue.path.join(".") || "options"}: ${issue.message}`);
      throw new EspalierError("bad-option", `${card.slug}: wrong options:\n${problems.join("\n")}`);
    }
    return create(parsed.data);
  };
  return Object.assign(factory, { card, schema });
}
