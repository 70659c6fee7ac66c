import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import expected from "../../tests/fixtures/events.json" with { type: "json" };
import { EventFile } from "./event-file.ts";

test("a run's scalars are the bytes that TensorBoard writes of them; a resumed run says from which step on it counts", () => {
  const directory = mkdtempSync(join(tmpdir(), "espalier-events-"));
  try {
    const first = new EventFile(directory, 1, () => 1_700_000_000_250);
    first.scalars(1, { loss: 2.5, "eval/accuracy": 0.5, gradientNorm: Number.NaN });
    first.scalars(2, { loss: Number.POSITIVE_INFINITY });
    first.scalars(300, { learningRate: 1e-5, größe: -1.5 });
    first.close();
    // The clock may go backwards between the two.
    const resumed = new EventFile(directory, 201, () => 1_600_000_000_500);
    resumed.scalars(201, { loss: 1.25 });
    resumed.close();
    expect(readFileSync(first.path).toString("base64")).toBe(expected.first);
    expect(readFileSync(resumed.path).toString("base64")).toBe(expected.resumed);
    expect(basename(first.path) < basename(resumed.path)).toBe(true);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
