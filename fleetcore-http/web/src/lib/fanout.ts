/** State of the grid of a fan-out: one cell per target, fed by lists, events and the parent's lines, in any order. */
import type { Command, Exit, FanoutLine } from './api/types';

export const PARENT = 'fleetcore/parent';
export const ROLE = 'fleetcore/fanout';

export interface Cell {
  target: string;
  state: string;
  command: string | null;
  exit: Partial<Exit> | null;
  error: string | null;
  duration_ms: number | null;
}

/** `waiting` (not begun) before `queued`, `running`, and an end. */
const progress = (state: string): number => (state === 'waiting' ? 0 : state === 'queued' ? 1 : state === 'running' ? 2 : 3);

export const isChildOf = (command: Command, parent: string): boolean => command.labels[PARENT] === parent;
export const isParent = (command: Command): boolean => command.labels[ROLE] === 'parent';

export const waiting = (target: string): Cell => ({ target, state: 'waiting', command: null, exit: null, error: null, duration_ms: null });

export function fromCommand(it: Command): Cell {
  return { target: it.target, state: it.state, command: it.id, exit: it.exit ?? null, error: it.error ?? null, duration_ms: it.duration_ms ?? null };
}

export function fromLine(it: FanoutLine): Cell {
  return {
    ...waiting(it.target ?? ''), state: it.state ?? (it.error ? 'failed' : 'waiting'), command: it.command ?? null, exit: it.exit ?? null,
    error: it.error ? (it.error.detail ?? it.error.title ?? it.error.code ?? 'failed') : null,
  };
}

/** The newer of two; news never take a cell back, and never lose what is known. */
export function newer(old: Cell | undefined, next: Cell): Cell {
  if (!old) return next;
  const [late, early] = progress(next.state) >= progress(old.state) ? [next, old] : [old, next];
  return {
    ...late,
    command: late.command ?? early.command,
    exit: late.exit ?? early.exit,
    error: late.error ?? early.error,
    duration_ms: late.duration_ms ?? early.duration_ms,
  };
}

/** Complete lines of JSON in `text`, and what is left of the last. Lines of another kind are skipped. */
export function takeLines(text: string): { lines: FanoutLine[]; rest: string } {
  const parts = text.split('\n');
  const rest = parts.pop() ?? '';
  const lines: FanoutLine[] = [];
  for (const part of parts) {
    try {
      const line = JSON.parse(part) as FanoutLine | null;
      if (typeof line?.target === 'string' || typeof line?.provider === 'string') lines.push(line);
    } catch {
      // Words for people between the lines are no news of a target.
    }
  }
  return { lines, rest };
}

export interface Counts {
  total: number;
  waiting: number;
  running: number;
  succeeded: number;
  failed: number;
  /** Not begun, as too many had failed. */
  skipped: number;
}

/** Everything that began and ended otherwise than well counts as failed. */
export function count(cells: Iterable<Cell>): Counts {
  const counts: Counts = { total: 0, waiting: 0, running: 0, succeeded: 0, failed: 0, skipped: 0 };
  for (const { state } of cells) {
    counts.total += 1;
    counts[groupOf(state)] += 1;
  }
  return counts;
}

export type Group = Exclude<keyof Counts, 'total'>;
export type Show = 'all' | Group;

export function groupOf(state: string): Group {
  if (state === 'queued') return 'waiting';
  return state === 'waiting' || state === 'running' || state === 'succeeded' || state === 'skipped' ? state : 'failed';
}
