import { z } from "zod";

/** One option of a run: what it may be, and how the command and the configuration speak of it. */
export interface RunOption<S extends z.ZodType = z.ZodType> {
  /** Values and default; its messages complete "It must be …". */
  readonly schema: S;
  /** One line. Of a switch that is on unless told: what `--no-…` does. */
  readonly help: string;
  /** What stands for the value in the usage, such as `<n>`. Absent: a switch. */
  readonly value?: string;
  /** The value that a flag's text stands for. Absent: as the schema's type says. */
  readonly parse?: (text: string, previous: unknown) => unknown;
  /** How the default is put into words, where it follows from other things or does not read well. */
  readonly byDefault?: string;
  /** May change when a run is resumed: the trained weights do not depend on it. */
  readonly free?: true;
  /** A path: in a configuration it is relative to that file. */
  readonly path?: true;
}

/** Infers the schema's type, and nothing else. */
export const option = <S extends z.ZodType>(schema: S, rest: Omit<RunOption<S>, "schema">): RunOption<S> => ({ schema, ...rest });

const unwrapped = (schema: z.ZodType): z.ZodType => {
  const { type, innerType } = schema.def as { type: string; innerType?: z.ZodType };
  return type === "optional" || type === "default" ? unwrapped(innerType!) : schema;
};

export const choicesOf = (schema: z.ZodType): readonly string[] | undefined => {
  const inner = unwrapped(schema);
  return inner instanceof z.ZodEnum ? (inner.options as string[]) : undefined;
};

/** The value that applies when nothing is given; undefined where there is none or where it follows from other things. */
export const defaultOf = (schema: z.ZodType): unknown => {
  const parsed = schema.safeParse(undefined);
  return parsed.success ? parsed.data : undefined;
};

/** How text becomes a value of the schema's type. */
export function parserOf({ schema, parse }: RunOption): (text: string, previous: unknown) => unknown {
  if (parse) return parse;
  const { type } = unwrapped(schema).def;
  if (type === "number" || type === "int") return (text) => (text.trim() === "" ? Number.NaN : Number(text));
  return (text) => text;
}

export const flagName = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

export const whole = (minimum: number) => {
  const message = `It must be a whole number of at least ${minimum}.`;
  return z.int(message).min(minimum, message);
};

export const between = (minimum: number, maximum?: number) => {
  const message =
    maximum === undefined ? `It must be a number of at least ${minimum}.` : `It must be a number between ${minimum} and ${maximum}.`;
  const schema = z.number(message).min(minimum, message);
  return maximum === undefined ? schema : schema.max(maximum, message);
};

export const text = () => z.string("It must be a text.").min(1, "It must not be empty.");

export const toggle = () => z.boolean("It must be true or false.");

export const oneOf = <const T extends string>(choices: readonly T[]) => z.enum(choices, `It must be one of ${choices.join(", ")}.`);
