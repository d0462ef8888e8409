import { describe, expect, it } from 'vitest';
import { matcher, matching, parseLabels, splitPatterns } from './glob';

describe('matcher', () => {
  it.each([
    ['office-*', 'office-1', true], ['office-*', 'office-1/sandbox/a', false], ['*', 'local', true], ['*', 'sandbox/a', false],
    ['**', 'office-1/sandbox/a', true], ['office-1/**', 'office-1/sandbox/a', true], ['office-1/**', 'office-1', false],
    ['sandbox/dev?', 'sandbox/dev1', true], ['sandbox/dev?', 'sandbox/dev10', false], ['sandbox/?ev', 'sandbox//ev', false],
    ['a.b', 'axb', false], ['a+(b)', 'a+(b)', true], ['*/a', 'sandbox/a', true],
  ])('%s on %s', (pattern, name, hit) => expect(matcher(pattern)(name)).toBe(hit));
});

it('finds targets by patterns and labels', () => {
  const targets: { target: string; labels: Record<string, string> }[] = [{ target: 'local', labels: {} }, { target: 's/a', labels: { role: 'web' } }, { target: 's/b', labels: { role: 'db' } }];
  expect(matching(targets, splitPatterns('s/*, local'), {})).toEqual(['local', 's/a', 's/b']);
  expect(matching(targets, ['**'], { role: 'web' })).toEqual(['s/a']);
  expect(matching(targets, [], {})).toEqual([]);
});

it('reads labels as typed', () => {
  expect(parseLabels('a=1, b= c==x')).toEqual({ a: '1', b: '', c: '=x' });
  expect(() => parseLabels('a')).toThrow('key=value');
  expect(() => parseLabels('=a')).toThrow('key=value');
});
