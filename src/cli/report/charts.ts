import type { TopLevelSpec } from "vega-lite";

export interface Series {
  /** As the legend calls it. */
  name: string;
  points: readonly (readonly [x: number, y: number])[];
  /** How it is drawn. Default: a line. */
  as?: "line" | "faint" | "points";
}

export interface LineChart {
  title: string;
  x: string;
  y: string;
  series: readonly Series[];
  /** Axes whose scale is logarithmic. */
  logarithmic?: readonly ("x" | "y")[];
}

/** More points than this are more than a chart shows. */
const drawnPoints = 1000;

/** A chart as an SVG text, readable on light and dark pages. Points that are not finite are left out. */
export async function lineChart({ title, x, y, series, logarithmic = [] }: LineChart): Promise<string> {
  const scale = (axis: "x" | "y") => (logarithmic.includes(axis) ? { type: "log" as const } : { zero: false, nice: true });
  const whole = series.every(({ points }) => points.every(([at]) => Number.isInteger(at)));
  const layers = series.map(({ name, points, as = "line" }) => ({
    data: {
      values: thinned(points.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b))).map(([a, b]) => ({ x: a, y: b, series: name })),
    },
    mark:
      as === "points"
        ? { type: "line" as const, point: { size: 36 }, strokeWidth: 1.5 }
        : { type: "line" as const, strokeWidth: as === "faint" ? 1 : 2, opacity: as === "faint" ? 0.35 : 1 },
    encoding: {
      x: { field: "x", type: "quantitative" as const, title: x, scale: scale("x"), axis: whole ? { tickMinStep: 1, format: "d" } : {} },
      y: { field: "y", type: "quantitative" as const, title: y, scale: scale("y") },
      color: { field: "series", type: "nominal" as const, title: null, sort: series.map((s) => s.name) },
    },
  }));
  return svg({
    width: 640,
    height: 260,
    padding: 12,
    title: { text: title, anchor: "start" },
    background: "white",
    layer: layers,
    config: { axis: { gridColor: "#e8e8e8" }, view: { stroke: null }, legend: { orient: "top", symbolOpacity: 1 } },
  });
}

/** Loaded when a chart is drawn: it takes half a second. */
async function svg(spec: TopLevelSpec): Promise<string> {
  const [{ compile }, vega] = await Promise.all([import("vega-lite"), import("vega")]);
  const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none", logLevel: vega.Error });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** Every n-th point, and the last. */
function thinned<P>(points: readonly P[]): P[] {
  const every = Math.ceil(points.length / drawnPoints);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

/** An exponential moving average that begins at the first value: what a noisy curve tends to. `half` is the number of points over which a value's weight halves. */
export function smoothed(points: readonly (readonly [number, number])[], half: number): [number, number][] {
  const keep = 0.5 ** (1 / Math.max(1, half));
  let [sum, weight] = [0, 0];
  return points.flatMap(([x, y]): [number, number][] => {
    if (!Number.isFinite(y)) return [];
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [[x, sum / weight]];
  });
}
