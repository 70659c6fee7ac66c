import { InvalidArgumentError } from "commander";

/** `name=value`, the value as JSON where it is, or a JSON object; several are put together. */
export function namedValues(text: string, given: unknown = {}): Record<string, unknown> {
  const before = given as Readonly<Record<string, unknown>>;
  if (text.trimStart().startsWith("{")) {
    const parsed = asJson(text);
    if (typeof parsed !== "object" || parsed === null) throw new InvalidArgumentError("It begins like JSON and is none.");
    return { ...before, ...parsed };
  }
  const [, name, value] = /^\s*([A-Za-z]\w*)\s*=(.*)$/s.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError("It must be name=value or a JSON object, e.g. tokens=10 or '{\"tokens\": 10}'.");
  return { ...before, [name]: asJson(value!) ?? value! };
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** JSON, and nothing else. */
export function json(text: string): unknown {
  const value = asJson(text);
  if (value === undefined) throw new InvalidArgumentError("It must be JSON.");
  return value;
}
