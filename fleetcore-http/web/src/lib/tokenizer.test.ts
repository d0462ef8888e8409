import { describe, expect, it } from 'vitest';
import { parseEnv, quote, tokenize, TokenizeError } from './tokenizer';

describe('tokenize', () => {
  it.each<[string, string[]]>([
    ['', []],
    ['  \t ', []],
    ['ls -l', ['ls', '-l']],
    [`echo 'a b' "c d"`, ['echo', 'a b', 'c d']],
    [`a'b'"c"d`, ['abcd']],
    [`'' ""`, ['', '']],
    ['a\\ b \\\\', ['a b', '\\']],
    [`"a\\"b\\\\c\\$d\\n"`, ['a"b\\c$d\\n']],
    [`'a\\'`, ['a\\']],
    ['a\\\nb c', ['ab', 'c']],
    ['"a\\\nb"', ['ab']],
    ['echo\nx', ['echo', 'x']],
    [`it's" "ok'`, [`its" "ok`]],
  ])('%j', (line, argv) => {
    expect(tokenize(line).argv).toEqual(argv);
  });

  it.each<[string, number]>([[`echo 'a`, 5], ['echo "a', 5], ['a \\', 2], ['"\\"', 0]])('refuses %j at %i', (line, at) => {
    expect(() => tokenize(line)).toThrow(TokenizeError);
    try {
      tokenize(line);
    } catch (error) {
      expect((error as TokenizeError).at).toBe(at);
    }
  });

  it('names what only a shell would understand, unless it is quoted', () => {
    expect(tokenize('ls *.rs | wc > "$x"').shellSyntax).toEqual(['*', '|', '>']);
    expect(tokenize(`echo '$HOME' \\* a~b c#d`).shellSyntax).toEqual([]);
    expect(tokenize('ls ~ # note').shellSyntax).toEqual(['~', '#']);
  });
});

describe('quote', () => {
  it('is undone by tokenize', () => {
    const hard = ['', ' ', "it's", '"', '\\', '$HOME', 'a\nb', '*', 'plain-word_1.2/3', 'ä€', "'''"];
    expect(tokenize(quote(hard)).argv).toEqual(hard);
    expect(quote(['ls', '-l', '/tmp'])).toBe('ls -l /tmp');
  });
});

describe('parseEnv', () => {
  it('reads lines', () => {
    expect(parseEnv('A=1\n\n B_2=x=y z\nEMPTY=')).toEqual({ A: '1', B_2: 'x=y z', EMPTY: '' });
  });
  it.each(['novalue', '=x', '1A=x', 'A-B=x'])('refuses %j', (text) => {
    expect(() => parseEnv(text)).toThrow(/KEY=value/);
  });
});
