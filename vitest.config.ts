import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: [
      "src/**/*.test.ts",
      "tests/**/*.test.ts",
      "recipes/**/*.test.ts",
      "bench/**/*.test.ts",
      "examples/**/*.test.ts",
      "reproductions/**/*.test.ts",
    ],
    // Commands that tests run leave nothing in the cache of whoever runs them.
    env: { ESPALIER_CACHE: join(tmpdir(), "espalier-test-cache") },
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
