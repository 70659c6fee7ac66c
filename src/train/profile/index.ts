export { type ProfileFiles, StepProfiler, type StepProfilerOptions } from "./step-profiler.ts";
export { type ProfiledSteps, profileTable } from "./table.ts";
export { profileTrace, type StepSpan, type TraceEvent } from "./trace.ts";
export { operationsOf, type Phase, phases, type Work, workOf } from "./work.ts";
