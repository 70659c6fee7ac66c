import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { hashFile } from "./file-hash.ts";

test("SHA-256 as published for an empty file and for 'abc', and of a file that takes more than one piece", () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-hash-"));
  try {
    const of = (content: string) => {
      writeFileSync(join(directory, "file"), content);
      return hashFile(join(directory, "file"));
    };
    expect(of("")).toEqual({ sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", bytes: 0 });
    expect(of("abc")).toEqual({ sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", bytes: 3 });
    // One million times "a", as in FIPS 180-2.
    expect(of("a".repeat(1_000_000)).sha256).toBe("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    const [one, other] = [of(`${"a".repeat(3_000_000)}b`), of(`${"a".repeat(3_000_000)}c`)];
    expect(one.bytes).toBe(3_000_001);
    expect(one.sha256).not.toBe(other.sha256);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
