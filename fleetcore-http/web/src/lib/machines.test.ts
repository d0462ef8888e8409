import { describe, expect, it } from 'vitest';
import type { Agent, Machine, Provider, Target } from './api/types';
import { allowed, byName, countStates, filterRows, merge, type Filter, type Row } from './machines';

const target = (name: string, more: Partial<Target> = {}): Target =>
  ({ target: name, provider: 'local', state: 'running', native_state: '', addresses: [], labels: {}, ...more }) as Target;
const machine = (name: string, more: Partial<Machine> = {}): Machine => {
  const parts = name.split('/');
  return {
    target: name, provider: parts.at(-2) ?? 'local', agent: parts.length > 2 ? parts[0] ?? null : null, name: parts.at(-1) ?? '',
    state: 'running', native_state: '', addresses: [], labels: {}, created_at: null, ...more,
  };
};
const agent = (id: string, online = true): [string, Agent] => [id, { id, online, connected: online, labels: {}, running: 0 }];
const provider = (name: string, at: string | null, more: Partial<Provider['capabilities']> = {}): Provider => ({
  name, agent: at, actions: [], available: true, reason: null,
  capabilities: { create: true, start: true, stop: true, stop_with_suspend: false, delete: true, delete_is_soft: false, ...more },
});
const all: Filter = { text: '', provider: '', state: '', agent: '' };
const names = (rows: Row[]) => rows.map((it) => it.target);

describe('merge', () => {
  it('makes one row of a target and its machine', () => {
    const rows = merge(
      [target('local'), target('sandbox/dev1', { provider: 'sandbox', addresses: ['10.0.0.2'] })],
      [machine('sandbox/dev1', { labels: { role: 'web' } }), machine('sandbox/dev2', { state: 'stopped' })],
      new Map(),
    );
    expect(names(rows)).toEqual(['local', 'sandbox/dev1', 'sandbox/dev2']);
    expect(rows[1]).toMatchObject({ machine: true, reachable: true, addresses: ['10.0.0.2'], labels: { role: 'web' } });
    expect(rows[2]).toMatchObject({ machine: true, reachable: false, state: 'stopped' });
  });
  it('does not take a host for a machine that could be deleted', () => {
    const [row] = merge([], [machine('local', { provider: 'local' })], new Map());
    expect(row?.machine).toBe(false);
  });
  it('shows what is behind an agent that is away as offline', () => {
    const rows = merge([target('office-1'), target('office-2')], [], new Map([agent('office-1', false), agent('office-2')]));
    expect(rows.map((it) => [it.state, it.reachable, it.agent])).toEqual([['offline', false, 'office-1'], ['running', true, 'office-2']]);
  });
  it('sorts numbers as numbers and this host first', () => {
    expect(['x/dev10', 'x/dev9', 'local', 'a'].sort(byName)).toEqual(['local', 'a', 'x/dev9', 'x/dev10']);
  });
});

describe('filterRows', () => {
  const rows = merge([target('local')], [
    machine('sandbox/web1', { labels: { role: 'web', team: 'build' } }),
    machine('office-1/multipass/db', { labels: { role: 'db' }, state: 'stopped', addresses: ['10.1.2.3'] }),
    machine('sandbox/gone', { state: 'deleted' }),
  ], new Map());
  const found = (change: Partial<Filter>) => names(filterRows(rows, { ...all, ...change }));

  it('hides deleted machines unless they are asked for', () => {
    expect(found({})).toEqual(['local', 'office-1/multipass/db', 'sandbox/web1']);
    expect(found({ state: 'deleted' })).toEqual(['sandbox/gone']);
  });
  it('needs every word, anywhere', () => {
    expect(found({ text: 'sand web' })).toEqual(['sandbox/web1']);
    expect(found({ text: '10.1.2' })).toEqual(['office-1/multipass/db']);
    expect(found({ text: 'sand stopped' })).toEqual([]);
  });
  it('matches labels exactly, or by their key', () => {
    expect(found({ text: 'role=we' })).toEqual([]);
    expect(found({ text: 'ROLE=web' })).toEqual(['sandbox/web1']);
    expect(found({ text: 'role=' })).toEqual(['office-1/multipass/db', 'sandbox/web1']);
  });
  it('takes provider, agent and state together', () => {
    expect(found({ provider: 'multipass', agent: 'office-1', state: 'stopped' })).toEqual(['office-1/multipass/db']);
    expect(found({ provider: 'multipass', state: 'running' })).toEqual([]);
  });
  it('counts states, deleted ones too', () => {
    expect(Object.fromEntries(countStates(rows))).toEqual({ running: 2, stopped: 1, deleted: 1 });
  });
});

describe('allowed', () => {
  const row = (change: Partial<Machine>) => merge([], [machine('sandbox/a', change)], new Map())[0] as Row;
  const can = (it: Row, providers: Provider[]) => [...allowed(it, providers)].sort();

  it('follows state and provider', () => {
    expect(can(row({ state: 'stopped' }), [provider('sandbox', null)])).toEqual(['delete', 'start']);
    expect(can(row({ state: 'running' }), [provider('sandbox', null)])).toEqual(['delete', 'force', 'stop']);
    expect(can(row({ state: 'running' }), [provider('sandbox', null, { stop_with_suspend: true, delete_is_soft: true })]))
      .toEqual(['delete', 'force', 'purge', 'stop', 'suspend']);
    expect(can(row({ state: 'deleted' }), [provider('sandbox', null, { delete_is_soft: true })])).toEqual(['purge']);
    expect(can(row({ state: 'pending' }), [provider('sandbox', null)])).toEqual(['delete']);
  });
  it('knows the provider of an agent from the one of the server', () => {
    const there = merge([], [machine('office-1/sandbox/a')], new Map())[0] as Row;
    expect(can(there, [provider('sandbox', null)])).toEqual([]);
    expect(can(there, [provider('sandbox', 'office-1')])).toContain('stop');
  });
  it('offers nothing for what is no machine', () => {
    expect(can(merge([target('local')], [], new Map())[0] as Row, [provider('local', null)])).toEqual([]);
  });
});
