import { expect, test } from 'vitest';
import type { RuntimeAction } from './api/types';
import { follow } from './runtimes';

const action = (number: number, more: Partial<RuntimeAction> = {}): RuntimeAction => ({
  number, kind: 'run', about: 'ls', started_at: '2026-01-01T00:00:00Z', answer_kept: false, ...more,
});
const none = { session: 'runtime-a-1', actions: [] };

test('an action runs, then is the newest that has ended', () => {
  const running = follow(none, 'started', action(1));
  expect(running.running?.number).toBe(1);
  const ended = follow(running, 'ended', action(1, { exit_code: 0 }));
  expect(ended.running).toBeNull();
  expect(ended.actions.map((it) => it.number)).toEqual([1]);
});

test('what was listed already is not listed twice, and old ones go', () => {
  const listed = follow({ ...none, actions: [action(1)] }, 'ended', action(1, { exit_code: 2 }));
  expect(listed.actions).toHaveLength(1);
  expect(listed.actions[0]?.exit_code).toBe(2);
  let state: ReturnType<typeof follow> = none;
  for (let n = 1; n <= 100; n++) state = follow(state, 'ended', action(n));
  expect(state.actions).toHaveLength(64);
  expect(state.actions[0]?.number).toBe(100);
});

test('only another main shell is the shell', () => {
  expect(follow(none, 'shell', { main: false, session: 'x' }).session).toBe('runtime-a-1');
  expect(follow(none, 'shell', { main: true, session: 'x' }).session).toBe('x');
  expect(follow(none, 'output', {})).toEqual(none);
});
