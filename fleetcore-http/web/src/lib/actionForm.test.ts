import { describe, expect, it } from 'vitest';
import type { ActionArgument, ActionInfo, ArgumentKind } from './api/types';
import { emptyValues, fits, labelOf, machineActions, parseSize, plain, providerActions, shapeOf, toArgs } from './actionForm';

const argument = (name: string, kind: ArgumentKind, required = false): ActionArgument => ({ name, kind, required, about: '' });
const action = (args: ActionArgument[], more: Partial<ActionInfo> = {}): ActionInfo =>
  ({ name: 'do', about: '', scope: 'machine', changes: true, destroys: false, arguments: args, ...more });

const mount = action([
  argument('source', 'text', true), argument('uid_maps', 'list'), argument('count', 'integer'),
  argument('memory_bytes', 'integer'), argument('native', 'flag'),
]);

describe('toArgs', () => {
  it('leaves out what is empty or off', () => {
    expect(toArgs(mount, { ...emptyValues(mount), source: ' /x ' })).toEqual({ args: { source: '/x' }, errors: {} });
  });
  it('gives each its type', () => {
    const { args, errors } = toArgs(mount, { source: '/x', uid_maps: '1:2\n\n 3:4 ', count: '7', memory_bytes: '2G', native: true });
    expect(errors).toEqual({});
    expect(args).toEqual({ source: '/x', uid_maps: ['1:2', '3:4'], count: 7, memory_bytes: 2 ** 31, native: true });
  });
  it('tells what is missing or no number at its field', () => {
    expect(Object.keys(toArgs(mount, { source: '', count: '-1', memory_bytes: 'much' }).errors)).toEqual(['source', 'count', 'memory_bytes']);
    expect(toArgs(mount, { source: 'x', count: '1.5' }).errors).toHaveProperty('count');
    expect(toArgs(mount, { source: 'x', count: '99999999999999999999' }).errors).toHaveProperty('count');
  });
  it('sends a flag that must be given even when it is off', () => {
    const needed = action([argument('sure', 'flag', true)]);
    expect(toArgs(needed, emptyValues(needed)).args).toEqual({ sure: false });
  });
});

describe('emptyValues', () => {
  it('fills in what is known', () => {
    expect(emptyValues(mount, { source: '/y', uid_maps: ['a', 'b'], native: true })).toMatchObject({ source: '/y', uid_maps: 'a\nb', native: true, count: '' });
  });
});

describe('parseSize', () => {
  it.each([['512', 512], ['2G', 2 ** 31], ['1.5 GiB', 1.5 * 2 ** 30], ['512 mb', 512 * 2 ** 20], ['0', 0]])('%s', (text, size) => {
    expect(parseSize(text)).toBe(size);
  });
  it.each(['', 'G', '-1', '1e3', '2 X', '1.2.3', '999999999999T'])('refuses %s', (text) => expect(parseSize(text)).toBeUndefined());
});

describe('actions', () => {
  it('are split by what they are done to', () => {
    const [one, two, three] = [action([], { scope: 'machine' }), action([], { scope: 'provider' }), action([], { scope: 'either' })];
    expect(machineActions([one, two, three])).toEqual([one, three]);
    expect(providerActions([one, two, three])).toEqual([two, three]);
  });
  it('fit the state', () => {
    const recover = action([], { name: 'recover' });
    expect([fits(recover, 'deleted'), fits(recover, 'running')]).toEqual([true, false]);
    expect([fits(mount, 'deleted'), fits(mount, 'running')]).toEqual([false, true]);
  });
  it('have names for people', () => {
    expect([labelOf('delete_snapshot'), labelOf('memory_bytes'), labelOf('name')]).toEqual(['Delete snapshot', 'Memory', 'Name']);
  });
});

describe('shapeOf', () => {
  it('makes a table of a list of records, with every column', () => {
    expect(shapeOf([{ a: 1 }, { a: 2, b: 3 }])).toMatchObject({ kind: 'table', columns: ['a', 'b'] });
  });
  it('looks into an answer that only wraps a list', () => {
    expect(shapeOf({ networks: [{ name: 'en0' }] })).toMatchObject({ kind: 'table', columns: ['name'] });
  });
  it('shows the rest as what it is', () => {
    expect(shapeOf({ client: '1.16', daemon: null })).toMatchObject({ kind: 'facts' });
    expect(shapeOf([])).toEqual({ kind: 'list', items: [] });
    expect(shapeOf(null)).toEqual({ kind: 'value', text: '–' });
    expect([plain(true), plain(['a', 'b']), plain({ a: 1 }), plain(0)]).toEqual(['yes', 'a, b', '{"a":1}', '0']);
  });
});
