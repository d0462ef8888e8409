/** Forms for provider actions, built from what the provider says about them. */
import type { ActionArgument, ActionInfo, MachineState } from './api/types';

export type Values = Record<string, string | boolean>;

export const isBytes = (argument: ActionArgument): boolean => argument.kind === 'integer' && argument.name.endsWith('_bytes');

/** `memory_bytes` reads “Memory”, `uid_maps` “Uid maps”. */
export function labelOf(name: string): string {
  const words = name.replace(/_bytes$/, '').replaceAll(/[_-]+/g, ' ').trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** An empty form; `given` fills what is known. */
export function emptyValues(action: ActionInfo, given: Record<string, unknown> = {}): Values {
  return Object.fromEntries(action.arguments.map(({ name, kind }) => {
    const value = given[name];
    if (kind === 'flag') return [name, value === true];
    return [name, Array.isArray(value) ? value.join('\n') : value === undefined || value === null ? '' : String(value)];
  }));
}

const UNITS: Record<string, number> = { '': 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** `2G`, `512 MiB`, `1.5 g`, or a bare number of bytes; undefined when it is none of these. */
export function parseSize(text: string): number | undefined {
  const found = /^(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?$/i.exec(text.trim());
  if (!found) return undefined;
  const value = Math.round(Number(found[1]) * (UNITS[(found[2] ?? '').toLowerCase()] ?? 1));
  return Number.isSafeInteger(value) ? value : undefined;
}

export interface Args {
  args: Record<string, unknown>;
  /** By argument: why its value is refused. */
  errors: Record<string, string>;
}

/** What to send: empty optional arguments are left out, as are flags that are off. */
export function toArgs(action: ActionInfo, values: Values): Args {
  const args: Record<string, unknown> = {};
  const errors: Record<string, string> = {};
  for (const argument of action.arguments) {
    const { name, kind, required } = argument;
    const value = values[name];
    if (kind === 'flag') {
      if (value === true || required) args[name] = value === true;
      continue;
    }
    const text = String(value ?? '').trim();
    if (text === '') {
      if (required) errors[name] = 'This is needed.';
      continue;
    }
    if (kind === 'list') {
      args[name] = text.split('\n').map((it) => it.trim()).filter(Boolean);
    } else if (kind === 'integer') {
      const number = isBytes(argument) ? parseSize(text) : /^\d+$/.test(text) ? Number(text) : undefined;
      if (number === undefined || !Number.isSafeInteger(number)) {
        errors[name] = isBytes(argument) ? 'A size such as 512M or 2G.' : 'A whole number, not negative.';
      } else args[name] = number;
    } else args[name] = text;
  }
  return { args, errors };
}

/** Actions for one machine, in the provider's order. */
export const machineActions = (actions: readonly ActionInfo[]): ActionInfo[] =>
  actions.filter((it) => it.scope !== 'provider');
export const providerActions = (actions: readonly ActionInfo[]): ActionInfo[] =>
  actions.filter((it) => it.scope !== 'machine');

/** `recover` makes sense for a deleted machine only; every other action not for one. */
export function fits(action: ActionInfo, state: MachineState | 'offline'): boolean {
  if (action.name === 'recover') return state === 'deleted';
  return state !== 'deleted' || action.name === 'purge';
}

export type Shape =
  | { kind: 'table'; columns: string[]; rows: Record<string, unknown>[] }
  | { kind: 'facts'; entries: [string, unknown][] }
  | { kind: 'list'; items: unknown[] }
  | { kind: 'value'; text: string };

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** How to show an answer to people. */
export function shapeOf(value: unknown): Shape {
  if (Array.isArray(value)) {
    if (value.length > 0 && value.every(isObject)) {
      return { kind: 'table', columns: [...new Set(value.flatMap((it) => Object.keys(it)))], rows: value };
    }
    return { kind: 'list', items: value };
  }
  if (isObject(value)) {
    const entries = Object.entries(value);
    // An answer that wraps one list is that list.
    const only = entries.length === 1 ? entries[0]?.[1] : undefined;
    return Array.isArray(only) ? shapeOf(only) : { kind: 'facts', entries };
  }
  return { kind: 'value', text: plain(value) };
}

/** One line for a cell. */
export function plain(value: unknown): string {
  if (value === null || value === undefined || value === '') return '–';
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (Array.isArray(value) && value.every((it) => typeof it !== 'object')) return value.join(', ') || '–';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
