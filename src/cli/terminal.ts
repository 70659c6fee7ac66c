import { MultiBar, Presets, type SingleBar, type ValueFormatter } from "cli-progress";

/** What the command prints to: lines, progress, and the one JSON object of `--json`. */
export class Terminal {
  readonly #out: NodeJS.WritableStream & { isTTY?: boolean };
  readonly #interactive: boolean;
  #bars: MultiBar | undefined;

  constructor(out: NodeJS.WritableStream & { isTTY?: boolean } = process.stdout) {
    this.#out = out;
    this.#interactive = out.isTTY === true;
  }

  line(text = ""): void {
    if (this.#bars) {
      // Inside a bar's lifetime the line goes above the bar, at once: what the bar still holds when it stops is lost.
      this.#bars.log(`${text}\n`);
      this.#bars.update();
    } else this.#out.write(`${text}\n`);
  }

  /** Text as it comes, without a line's end. */
  write(text: string): void {
    this.#out.write(text);
  }

  /** The machine-readable result: one JSON object as the last line. */
  json(result: unknown): void {
    this.#out.write(`${JSON.stringify(result)}\n`);
  }

  /** A progress bar on a terminal; elsewhere a plain line now and then. `show` puts amounts into words, bytes say. */
  progress(label: string, total: number, show: (amount: number) => string = String): Progress {
    return this.#interactive ? this.#bar(label, total, show) : this.#lines(label, total, show);
  }

  #bar(label: string, total: number, show: (amount: number) => string): Progress {
    this.#bars ??= new MultiBar(
      {
        stream: this.#out, // one stream for bar and lines, or they would tear each other apart
        format: "{label} {bar} {value}/{total}  {details}",
        hideCursor: true,
        clearOnComplete: false,
        barsize: 24,
        linewrap: false,
      },
      Presets.shades_classic,
    );
    const formatValue: ValueFormatter = (value, _, type) => (type === "value" || type === "total" ? show(value) : String(value));
    const bar: SingleBar = this.#bars.create(total, 0, { label: label.padEnd(10), details: "" }, { formatValue });
    let drawn = performance.now();
    return {
      update: (value, details, newTotal) => {
        if (newTotal !== undefined) bar.setTotal(newTotal);
        bar.update(value, { details });
        // Work that holds the thread keeps the bar from drawing itself.
        if (performance.now() - drawn < 200) return;
        this.#bars?.update();
        drawn = performance.now();
      },
      stop: () => {
        bar.stop();
        this.stopProgress();
      },
    };
  }

  /** Ends the bar of a command that failed, so that the message stands below it and the cursor is back. */
  stopProgress(): void {
    this.#bars?.stop();
    this.#bars = undefined;
  }

  /** Brings back the cursor that a bar hides and the wrapping of lines, for a process that may end at any time. */
  showCursor(): void {
    if (this.#interactive) this.#out.write("\u001b[?25h\u001b[?7h");
  }

  #lines(label: string, total: number, show: (amount: number) => string): Progress {
    let printedAt = 0;
    return {
      update: (value, details, newTotal = total) => {
        const now = Date.now();
        if (value < newTotal && now - printedAt < 10_000) return;
        printedAt = now;
        this.line(`${label} ${show(value)}/${show(newTotal)}  ${details}`);
      },
      stop() {},
    };
  }
}

export interface Progress {
  /** `total` may be given when it becomes known. */
  update(value: number, details: string, total?: number): void;
  stop(): void;
}

export const formatCount = (n: number): string => n.toLocaleString("en-US");
export const formatPercent = (share: number, digits = 1): string => `${(100 * share).toFixed(digits)} %`;

/** `1:05` or `2:03:09`. */
export function formatDuration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const parts = [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((p, i) => (i === 0 ? `${p}` : `${p}`.padStart(2, "0"))).join(":");
}

export const formatBytes = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
