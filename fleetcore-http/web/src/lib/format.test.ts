import { describe, expect, it } from 'vitest';
import { backoffMs } from './backoff';
import { ago, baseName, bytes, duration, exitText, joinPath, parentOf } from './format';

describe('format', () => {
  it.each([[0, '0 B'], [1023, '1023 B'], [1024, '1.0 KiB'], [1_048_575, '1.0 MiB'], [150 * 1024, '150 KiB']])('bytes %i', (n, text) => {
    expect(bytes(n)).toBe(text);
  });
  it.each([[null, '–'], [0.2, '<1 ms'], [12.3, '12 ms'], [1234, '1.23 s'], [61_000, '1 min 1 s'], [7_260_000, '2 h 1 min']])('duration %s', (ms, text) => {
    expect(duration(ms)).toBe(text);
  });
  it.each([[3, 'just now'], [45, '45 s ago'], [600, '10 min ago'], [7200, '2 h ago'], [260_000, '3 d ago']])('%i s ago', (s, text) => {
    expect(ago(new Date(1e12 - s * 1000).toISOString(), 1e12)).toBe(text);
  });
  it('says never for what never was', () => expect([ago(null), ago('nonsense')]).toEqual(['never', '–']));
  it('names exits', () => {
    expect(exitText({ code: 0 })).toBe('0');
    expect(exitText({ code: null, signal: 9, reason: 'timed_out' })).toBe('SIGKILL, timed out');
    expect(exitText(null)).toBe('–');
  });
  it('takes paths apart and together', () => {
    expect([baseName('/a/b'), baseName('/a/b/'), baseName('/')]).toEqual(['b', 'b', '/']);
    expect([parentOf('/a/b'), parentOf('/a'), parentOf('/')]).toEqual(['/a', '/', '/']);
    expect([joinPath('/', 'x'), joinPath('/a/', 'x')]).toEqual(['/x', '/a/x']);
  });
});

describe('backoffMs', () => {
  it('grows to a limit and stays within half of it', () => {
    expect(backoffMs(0, () => 0)).toBe(250);
    expect(backoffMs(0, () => 1)).toBe(500);
    expect(backoffMs(100, () => 1)).toBe(15_000);
    expect(backoffMs(100, () => 0)).toBe(7_500);
  });
});
