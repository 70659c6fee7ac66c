/**
 * Chat templates are programs that come with a checkpoint, written by strangers. They run in Hugging Face's Jinja interpreter with the
 * names that transformers gives them, and with bounds: a loop without an end, a huge list or text is an error, never a hang.
 *
 * The package's own declarations import without file extensions, which TypeScript's NodeNext resolution reads as `any`; hence the types here.
 */
import * as jinja from "@huggingface/jinja";
import { strftime } from "./strftime.ts";

interface Program {
  readonly type: "Program";
}

interface Value {
  readonly type: string;
  readonly value: unknown;
}

interface Environment {
  set(name: string, value: unknown): void;
}

interface Interpreter {
  run(program: Program): Value;
  evaluate(statement: unknown, environment: Environment): Value;
}

interface Library {
  Environment: new () => Environment;
  Interpreter: new (environment: Environment) => Interpreter;
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): { value: string; type: string }[];
  parse(tokens: { value: string; type: string }[]): Program;
}

const library = jinja as unknown as Library;

/** What a template may use up: the longest list and text, and the time. `range` has the limit of Jinja's own sandbox. */
const limits = { range: 100_000, list: 2 ** 20, text: 2 ** 26 };

/** What a template says with `raise_exception`. */
export class TemplateRefusal extends Error {}

export interface JinjaRun {
  variables: Readonly<Record<string, unknown>>;
  /** Written before and after what a `{% generation %}` block renders. */
  generation: readonly [begin: string, end: string];
  now: Date;
  /** Seconds. */
  timeLimit: number;
}

export class JinjaTemplate {
  /** Whether the source marks what the assistant says with `{% generation %}`. */
  readonly hasGeneration: boolean;
  readonly #program: Program;

  /** @throws Error when the source is not Jinja */
  constructor(source: string) {
    if (source.length > 1e6) throw new Error(`it has ${source.length} characters, more than any chat template`);
    // The lexer takes a time quadratic in runs of blanks.
    if (/\s{10000}/.test(source)) throw new Error("it holds more than 10,000 blanks in a row");
    this.hasGeneration = generationTag.test(source);
    this.#program = parse(markGeneration(source));
  }

  /** @throws TemplateRefusal, or an Error of the interpreter */
  render({ variables, generation, now, timeLimit }: JinjaRun): string {
    const environment = new library.Environment();
    const globals = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new TemplateRefusal(String(message));
      },
      strftime_now: (format: unknown) => strftime(now, String(format)),
      [beginName]: generation[0],
      [endName]: generation[1],
    };
    // A variable may hide a global, as in Jinja; the environment itself refuses to declare a name twice.
    for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
    const interpreter = new BoundedInterpreter(environment, timeLimit);
    interpreter.run(generationMacro);
    return String(interpreter.run(this.#program).value);
  }
}

const parse = (source: string): Program => library.parse(library.tokenize(source, { lstrip_blocks: true, trim_blocks: true }));

// transformers' tag `{% generation %}…{% endgeneration %}` is to Jinja a call block of a macro that writes the marks around the block:
// it has the same scope and, being a block tag, the same rules about the blanks around it. The library by itself drops the tag.
const [macroName, beginName, endName] = ["espalier_generation", "espalier_generation_begin", "espalier_generation_end"];
const generationTag = /\{%-?\s*generation\s*-?%\}/;
const markGeneration = (source: string): string =>
  source.replace(/\{%(-?)\s*(end)?generation\s*(-?)%\}/g, (_, before: string, end: string | undefined, after: string) =>
    end ? `{%${before} endcall ${after}%}` : `{%${before} call ${macroName}() ${after}%}`,
  );
const generationMacro = parse(`{% macro ${macroName}() %}{{ ${beginName} }}{{ caller() }}{{ ${endName} }}{% endmacro %}`);

function range(first: number, last?: number, step = 1): number[] {
  const [from, to] = last === undefined ? [0, first] : [first, last];
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (!(count <= limits.range)) throw new Error(`range(${from}, ${to}, ${step}) is longer than ${limits.range}`);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

class BoundedInterpreter extends library.Interpreter {
  readonly #deadline: number;
  readonly #timeLimit: number;
  #evaluations = 0;

  constructor(environment: Environment, timeLimit: number) {
    super(environment);
    this.#timeLimit = timeLimit;
    this.#deadline = performance.now() + timeLimit * 1000;
  }

  /** Everything that a template does comes by here, a loop before its first turn as well. */
  override evaluate(statement: { type: string } | undefined, environment: Environment): Value {
    if ((++this.#evaluations % 256 === 0 || statement?.type === "For") && performance.now() > this.#deadline)
      throw new Error(`it was not done after ${this.#timeLimit} seconds`);
    const result = super.evaluate(statement, environment);
    const { value } = result;
    if (typeof value === "string" && value.length > limits.text) throw new Error(`it makes a text longer than ${limits.text} characters`);
    if (Array.isArray(value) && value.length > limits.list) throw new Error(`it makes a list longer than ${limits.list}`);
    return result;
  }
}
