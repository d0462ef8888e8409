/** Numbers of hosts, made ready for plots. */
import type { Load, MetricName, Metrics, Series } from './api/types';

export interface Range {
  label: string;
  span_s: number;
  step_s: number;
}

/** As many points as a plot has pixels, no more. */
export const RANGES: readonly Range[] = [
  { label: '1 hour', span_s: 3_600, step_s: 10 },
  { label: '6 hours', span_s: 21_600, step_s: 60 },
  { label: '1 day', span_s: 86_400, step_s: 300 },
  { label: '7 days', span_s: 604_800, step_s: 1_800 },
];

/** One measurement in the units of the series. */
export function pointOf(load: Load): Record<MetricName, number> {
  return {
    cpu: load.cpu_percent,
    memory: load.memory_used_bytes,
    swap: load.swap_used_bytes,
    load1: load.load1,
    disk: load.disk_used_bytes,
    net_rx: load.net_rx_bytes_per_s,
    net_tx: load.net_tx_bytes_per_s,
  };
}

/** `metrics` with the newest measurement behind, without what is older than the span. */
export function append(metrics: Metrics, load: Load, span_s: number): Metrics {
  const at = Date.parse(load.at) / 1000;
  const point = pointOf(load);
  const series: Metrics['series'] = {};
  for (const [name, points] of Object.entries(metrics.series) as [MetricName, Series][]) {
    const last = points.at(-1)?.[0] ?? 0;
    const kept = points.filter(([t]) => t >= at - span_s);
    series[name] = at > last ? [...kept, [at, point[name] ?? null]] : kept;
  }
  const totals = { swap_bytes: 0, ...metrics.totals, memory_bytes: load.memory_total_bytes, disk_bytes: load.disk_total_bytes };
  return { series, totals };
}

/** Series on one axis of time, as uPlot takes them: missing values are null. */
export function align(all: readonly Series[]): [number[], ...(number | null)[][]] {
  const times = [...new Set(all.flatMap((series) => series.map(([t]) => t)))].sort((a, b) => a - b);
  const at = new Map(times.map((t, index) => [t, index]));
  const columns = all.map((series) => {
    const column: (number | null)[] = Array.from({ length: times.length }, () => null);
    for (const [t, value] of series) column[at.get(t) ?? 0] = value;
    return column;
  });
  return [times, ...columns];
}
