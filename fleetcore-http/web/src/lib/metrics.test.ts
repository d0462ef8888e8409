import { expect, it } from 'vitest';
import type { Load } from './api/types';
import { align, append, pointOf } from './metrics';

const load = (at: number): Load => ({
  at: new Date(at * 1000).toISOString(), cpu_percent: 50, memory_used_bytes: 3, memory_total_bytes: 10, swap_used_bytes: 1, swap_total_bytes: 2, uptime_s: 60, load1: 0.5, load5: 0, load15: 0,
  disk_used_bytes: 4, disk_total_bytes: 20, net_rx_bytes_per_s: 7, net_tx_bytes_per_s: 8,
});

it('continues what was fetched, forward only, and forgets what left the span', () => {
  const start = { series: { cpu: [[100, 1], [200, 2]] as [number, number][], memory: [] } };
  const next = append(start, load(250), 100);
  expect(next.series).toEqual({ cpu: [[200, 2], [250, 50]], memory: [[250, 3]] });
  expect(next.totals).toMatchObject({ memory_bytes: 10, disk_bytes: 20 });
  expect(append(next, load(240), 100).series.cpu).toEqual([[200, 2], [250, 50]]);
});

it('puts series on one axis', () => {
  expect(align([[[1, 10], [3, 30]], [[2, 5], [3, null]]])).toEqual([[1, 2, 3], [10, null, 30], [null, 5, null]]);
  expect(align([])).toEqual([[]]);
});

it('takes the numbers of a measurement as they are', () => expect(pointOf(load(1))).toMatchObject({ cpu: 50, memory: 3, disk: 4, net_tx: 8 }));
