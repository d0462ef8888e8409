import type { Exit } from './api/types';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytes(value: number): string {
  let unit = 0;
  let n = value;
  while (n >= 1023.5 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  if (ms < 1) return '<1 ms';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(2) : s.toFixed(1)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(s % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const sameDay = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const otherDay = new Intl.DateTimeFormat(undefined, {
  month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit',
});
const complete = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'long' });

export function time(at: string | null | undefined, now: Date = new Date()): string {
  if (!at) return '–';
  const date = new Date(at);
  return (date.toDateString() === now.toDateString() ? sameDay : otherDay).format(date);
}

export const fullTime = (at: string | null | undefined): string => (at ? complete.format(new Date(at)) : '');

const SIGNALS: Record<number, string> = {
  1: 'HUP', 2: 'INT', 3: 'QUIT', 6: 'ABRT', 9: 'KILL', 10: 'USR1', 11: 'SEGV', 12: 'USR2', 13: 'PIPE', 15: 'TERM',
};

const REASONS: Record<string, string> = {
  timed_out: 'timed out',
  requested: 'cancelled',
  owner_dropped: 'owner left',
  shutdown: 'server shutdown',
  lease_expired: 'lease expired',
};

export function exitText(exit: Partial<Exit> | null | undefined): string {
  if (!exit) return '–';
  const parts: string[] = [];
  if (exit.code !== null && exit.code !== undefined) parts.push(String(exit.code));
  if (exit.signal !== null && exit.signal !== undefined) {
    parts.push(`SIG${SIGNALS[exit.signal] ?? exit.signal}`);
  }
  if (exit.reason) parts.push(REASONS[exit.reason] ?? exit.reason);
  return parts.join(', ') || '–';
}

/** The last name of a path, `/` for the root. */
export const baseName = (path: string): string => path.replace(/\/+$/, '').split('/').pop() || '/';

export function parentOf(path: string): string {
  return path.replace(/\/+$/, '').replace(/\/[^/]*$/, '') || '/';
}

export const joinPath = (dir: string, name: string): string => `${dir.replace(/\/+$/, '')}/${name}`;

/** `just now`, `5 min ago`; for places where the exact time is in the title. */
export function ago(at: string | null | undefined, now: number = Date.now()): string {
  if (!at) return 'never';
  const s = (now - Date.parse(at)) / 1000;
  if (!Number.isFinite(s)) return '–';
  if (s < 10) return 'just now';
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86_400)} d ago`;
}
