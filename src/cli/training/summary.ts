/** What `train --json` prints. */
export interface TrainSummary {
  task: string;
  metric: string;
  /** Whether more of the metric is better. */
  higherIsBetter: boolean;
  /** Before training; absent where the base was not measured. */
  baseMetric?: number;
  finalMetric: number;
  before?: Readonly<Record<string, number>>;
  after: Readonly<Record<string, number>>;
  majorityAccuracy?: number;
  evalLossBefore?: number;
  evalLossAfter: number;
  steps: number;
  trainableParameters: number;
  totalParameters: number;
  tokensPerSecond: number;
  seconds: number;
  /** Shares of the steps' time: waiting for data, in the session, and all else. */
  timeShares: { data: number; session: number; rest: number };
  peakMemoryMB: number;
  /** Directory of what was trained: the adapter, or the whole model where no adapter was asked for. Of a run that pauses, its checkpoint. */
  adapter: string;
  /** The report, where one was asked for. */
  report?: string;
}

/** Where a run stands that is trained a part of the way, as a search does. */
export interface Pause {
  /** Share of the run's steps after which it pauses, with a checkpoint from which it goes on exactly. */
  until: number;
  /** The run directory from whose newest checkpoint the run begins, where it has none of its own. */
  from?: string | undefined;
}
