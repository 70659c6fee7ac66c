/** No honest file comes near it, and everything that walks a value may then call itself. */
const deepest = 500;

/**
 * As `JSON.parse`, for text from anywhere: values nested more than 500 deep are refused, because what reads them later would run out of stack.
 *
 * @throws SyntaxError
 */
export function parseJson(text: string): unknown {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x22) i = endOfString(text, i);
    else if (char === 0x5b || char === 0x7b) {
      if (++depth > deepest) throw new SyntaxError(`values are nested more than ${deepest} deep at position ${i}`);
    } else if (char === 0x5d || char === 0x7d) depth--;
  }
  return JSON.parse(text);
}

/** The index of the quote that closes the string which opens at `start`. */
function endOfString(text: string, start: number): number {
  let end = start + 1;
  while (end < text.length && text.charCodeAt(end) !== 0x22) end += text.charCodeAt(end) === 0x5c ? 2 : 1;
  return end;
}
