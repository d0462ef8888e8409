import { describe, expect, it } from 'vitest';
import type { Command } from './api/types';
import { count, fromCommand, fromLine, groupOf, isChildOf, isParent, newer, takeLines, waiting } from './fanout';

const command = (state: string, more: Partial<Command> = {}): Command =>
  ({ id: 'c1', target: 'a', state, exit: null, labels: {}, display: '', output_bytes: 0, created_at: '', ...more }) as Command;

describe('newer', () => {
  it('goes forward only, whatever the order of the news', () => {
    const ended = newer(newer(waiting('a'), fromCommand(command('running'))), fromCommand(command('failed', { exit: { code: 3, leaked: false } })));
    expect(ended).toMatchObject({ state: 'failed', exit: { code: 3 }, command: 'c1' });
    expect(newer(ended, fromCommand(command('running')))).toEqual(ended);
    expect(newer(ended, waiting('a'))).toEqual(ended);
  });
  it('keeps what only the earlier news knew', () => {
    const running = fromCommand(command('running'));
    expect(newer(running, fromLine({ target: 'a', state: 'succeeded' }))).toMatchObject({ state: 'succeeded', command: 'c1' });
    expect(newer(fromLine({ target: 'a', state: 'succeeded' }), running)).toMatchObject({ state: 'succeeded', command: 'c1' });
  });
});

describe('takeLines', () => {
  it('takes whole lines and keeps the rest', () => {
    const first = takeLines('{"target":"a","state":"running"}\n{"target":"b",');
    expect(first.lines).toEqual([{ target: 'a', state: 'running' }]);
    expect(takeLines(`${first.rest}"state":"failed"}\n`).lines).toEqual([{ target: 'b', state: 'failed' }]);
  });
  it('passes over words, summaries and nonsense', () => {
    expect(takeLines('starting\nnull\n42\n{"summary":{"targets":3}}\n{"provider":"multipass","error":{"detail":"down"}}\n').lines)
      .toEqual([{ provider: 'multipass', error: { detail: 'down' } }]);
  });
});

describe('fromLine', () => {
  it('says why a target never got a command', () => {
    expect(fromLine({ target: 'a', error: { code: 'unavailable', detail: 'the agent is away' } }))
      .toMatchObject({ state: 'failed', error: 'the agent is away', command: null });
    expect(fromLine({ target: 'a', state: 'skipped' })).toMatchObject({ state: 'skipped', error: null });
  });
});

describe('count', () => {
  it('puts every cell into one group', () => {
    const states = ['waiting', 'queued', 'running', 'succeeded', 'failed', 'lost', 'cancelled', 'skipped'];
    expect(count(states.map((state) => ({ ...waiting(state), state }))))
      .toEqual({ total: 8, waiting: 2, running: 1, succeeded: 1, failed: 3, skipped: 1 });
    expect(groupOf('anything new')).toBe('failed');
  });
});

it('knows parents and children by their labels', () => {
  expect(isChildOf(command('running', { labels: { 'fleetcore/parent': 'p' } }), 'p')).toBe(true);
  expect(isChildOf(command('running'), 'p')).toBe(false);
  expect(isParent(command('running', { labels: { 'fleetcore/fanout': 'parent' } }))).toBe(true);
});
