/** `base-dtype-step.ts <directory> <base dtype> <spec>`: the memory of a process that does nothing else, after two steps; see the bench base-dtype. */
import { readFileSync } from "node:fs";
import type { BaseDtype } from "../src/models/index.ts";
import { estimateStep } from "../src/train/estimate.ts";
import { round } from "./machine.ts";
import { openStep } from "./training-step.ts";

const [directory, dtype, spec] = process.argv.slice(2) as [string, BaseDtype, string];
const { step, traced, dispose } = await openStep(directory, JSON.parse(spec), dtype);
await step();
await step();
global.gc?.();
const status = readFileSync("/proc/self/status", "utf8");
const megabytes = (key: string) => Math.round((Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)?.[1]) * 1024) / 1e6);
const figures = {
  /** Of the frozen values that a step reads. */
  weightsMB: round(estimateStep(traced).frozenBytes / 1e6, 1),
  residentMB: megabytes("VmRSS"),
  ofWhichMappedMB: megabytes("RssFile"),
  ofWhichAnonymousMB: megabytes("RssAnon"),
  peakMB: megabytes("VmHWM"),
};
await dispose();
console.log(JSON.stringify(figures));
