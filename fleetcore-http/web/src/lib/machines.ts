/** One row for everything commands or life-cycle calls can be done to, and what may be done to it. */
import type { Agent, Machine, MachineState, Provider, Target } from './api/types';

export interface Row {
  target: string;
  provider: string;
  agent: string | null;
  /** Its name within the provider. */
  name: string;
  state: MachineState | 'offline';
  native_state: string;
  addresses: string[];
  labels: Record<string, string>;
  created_at: string | null;
  /** Commands can be run on it now. */
  reachable: boolean;
  /** Made by a provider, so that it can be started, stopped or deleted. */
  machine: boolean;
  host: Target['host'];
}

/** Targets and machines by name; a machine knows its state, a target what it is. */
export function merge(
  targets: Iterable<Target>,
  machines: Iterable<Machine>,
  agents: ReadonlyMap<string, Agent>,
): Row[] {
  const rows = new Map<string, Row>();
  for (const it of targets) {
    const parts = it.target.split('/');
    const agent = agents.has(parts[0] ?? '') ? (parts[0] ?? null) : null;
    const offline = agent !== null && agents.get(agent)?.online === false;
    rows.set(it.target, {
      target: it.target,
      provider: it.provider,
      agent,
      name: parts.at(-1) ?? it.target,
      state: offline ? 'offline' : it.state,
      native_state: it.native_state,
      addresses: it.addresses,
      labels: it.labels,
      created_at: it.created_at ?? null,
      reachable: it.state === 'running' && !offline,
      machine: false,
      host: it.host ?? agents.get(it.target)?.host ?? null,
    });
  }
  for (const it of machines) {
    const known = rows.get(it.target);
    rows.set(it.target, {
      target: it.target,
      provider: it.provider,
      agent: it.agent ?? null,
      name: it.name,
      state: it.state,
      native_state: it.native_state,
      addresses: it.addresses.length > 0 ? it.addresses : (known?.addresses ?? []),
      labels: { ...known?.labels, ...it.labels },
      created_at: it.created_at ?? known?.created_at ?? null,
      reachable: it.state === 'running',
      // Hosts are in the list of machines too, and are nobody's to start or delete.
      machine: it.provider !== 'local',
      host: known?.host ?? null,
    });
  }
  return [...rows.values()].sort((a, b) => byName(a.target, b.target));
}

const collator = new Intl.Collator(undefined, { numeric: true });

/** `dev2` before `dev10`; this host first. */
export function byName(a: string, b: string): number {
  if (a === 'local' || b === 'local') return a === b ? 0 : a === 'local' ? -1 : 1;
  return collator.compare(a, b);
}

export interface Filter {
  text: string;
  provider: string;
  state: string;
  agent: string;
}

/**
 * Every word of the text must be found: `key=value` and `key=` in the labels
 * exactly, any other word anywhere in name, state, address or label.
 */
export function filterRows(rows: Row[], filter: Filter): Row[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    if (filter.provider && row.provider !== filter.provider) return false;
    if (filter.agent && row.agent !== filter.agent) return false;
    if (filter.state ? row.state !== filter.state : row.state === 'deleted') return false;
    const labels = Object.entries(row.labels).map(([key, value]) => `${key}=${value}`.toLowerCase());
    const text = [row.target, row.provider, row.state, row.native_state, row.host?.hostname ?? '', row.host?.os ?? '', ...row.addresses, ...labels]
      .join('\n').toLowerCase();
    return words.every((word) => {
      const equals = word.indexOf('=');
      if (equals <= 0) return text.includes(word);
      return labels.some((label) => (word.length === equals + 1 ? label.startsWith(word) : label === word));
    });
  });
}

export const providerOf = (row: Row, providers: readonly Provider[]): Provider | undefined =>
  providers.find((it) => it.name === row.provider && (it.agent ?? null) === row.agent);

export type Operation = 'start' | 'stop' | 'suspend' | 'force' | 'delete' | 'purge';

/** What makes sense now: the provider can do it and the state allows it. */
export function allowed(row: Row, providers: readonly Provider[]): Set<Operation> {
  const can = providerOf(row, providers)?.capabilities;
  const found = new Set<Operation>();
  if (!row.machine || !can) return found;
  const down = row.state === 'stopped' || row.state === 'suspended';
  const up = row.state === 'running';
  if (can.start && down) found.add('start');
  if (can.stop && up) {
    found.add('stop');
    found.add('force');
    if (can.stop_with_suspend) found.add('suspend');
  }
  // A state the provider does not tell must not lock a machine in.
  if (row.state === 'unknown' || row.state === 'failed') {
    if (can.start) found.add('start');
    if (can.stop) found.add('force');
  }
  if (can.delete) {
    if (row.state === 'deleted') found.add('purge');
    else {
      found.add('delete');
      if (can.delete_is_soft) found.add('purge');
    }
  }
  return found;
}

/** Sum per state, for the filter. */
export function countStates(rows: Row[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { state } of rows) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
}

export const OPERATION_TEXT: Record<Operation, { label: string; doing: string; title: (n: number) => string; body: string }> = {
  start: { label: 'Start', doing: 'starting', title: (n) => `Start ${some(n)}?`, body: '' },
  stop: { label: 'Stop', doing: 'stopping', title: (n) => `Stop ${some(n)}?`, body: 'The system is asked to shut down; what runs on it ends.' },
  suspend: { label: 'Suspend', doing: 'suspending', title: (n) => `Suspend ${some(n)}?`, body: 'Memory is kept; starting goes on where it was.' },
  force: { label: 'Force stop', doing: 'stopping', title: (n) => `Pull the plug of ${some(n)}?`, body: 'Nothing is asked or saved: data not yet written is lost.' },
  delete: { label: 'Delete', doing: 'deleting', title: (n) => `Delete ${some(n)}?`, body: '' },
  purge: { label: 'Delete for good', doing: 'deleting', title: (n) => `Delete ${some(n)} for good?`, body: 'All data on it is lost. This can not be undone.' },
};

const some = (n: number): string => (n === 1 ? 'the machine' : `${n} machines`);
