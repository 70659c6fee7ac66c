const quote = 0x22;
const backslash = 0x5c;

/**
 * Finds a key that occurs twice in one object of a JSON text. `JSON.parse` keeps the last of them without a word, so two readers
 * could see two different tensors in one file.
 *
 * A loop rather than a regular expression: a hostile header of many megabytes must not exhaust a backtracking stack.
 *
 * @param json text that `JSON.parse` has accepted, so only strings and nesting need a look
 */
export function findDuplicateKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  for (let i = 0; i < json.length; i++) {
    const char = json[i];
    // An array opens a level too, so that closing it does not close the object around it.
    if (char === "{" || char === "[") open.push(new Set());
    else if (char === "}" || char === "]") open.pop();
    else if (char === '"') {
      const start = i++;
      while (json.charCodeAt(i) !== quote) i += json.charCodeAt(i) === backslash ? 2 : 1;
      if (!isFollowedByColon(json, i + 1)) continue;
      const literal = json.slice(start, i + 1);
      const key = literal.includes("\\") ? (JSON.parse(literal) as string) : literal.slice(1, -1);
      const keys = open.at(-1)!;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function isFollowedByColon(json: string, from: number): boolean {
  let i = from;
  while (json[i] === " " || json[i] === "\n" || json[i] === "\r" || json[i] === "\t") i++;
  return json[i] === ":";
}
