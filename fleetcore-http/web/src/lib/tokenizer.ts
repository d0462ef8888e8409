/** Why a command line could not be split; `at` is a 0-based position in it. */
export class TokenizeError extends Error {
  readonly at: number;
  constructor(message: string, at: number) {
    super(message);
    this.at = at;
  }
}

/** Characters that mean something to a shell when they stand unquoted. */
const SHELL_ONLY = new Set(['|', '&', ';', '<', '>', '(', ')', '`', '$', '*', '?', '#', '~']);

export interface Tokens {
  argv: string[];
  /** Unquoted characters that only a shell would act on: passed on as they are. */
  shellSyntax: string[];
}

/**
 * Splits a command line into arguments as a POSIX shell splits words: blanks
 * separate, single quotes keep everything, double quotes keep all but `\\`,
 * `\"`, `\$`, `` \` `` and line continuation, a backslash keeps the next
 * character. Nothing is expanded.
 */
export function tokenize(line: string): Tokens {
  const argv: string[] = [];
  const shellSyntax = new Set<string>();
  let word: string | undefined;
  let i = 0;
  while (i < line.length) {
    const c = line.charAt(i);
    if (c === "'") {
      const end = line.indexOf("'", i + 1);
      if (end < 0) throw new TokenizeError("this ' has no closing one", i);
      word = (word ?? '') + line.slice(i + 1, end);
      i = end + 1;
    } else if (c === '"') {
      const quoted = doubleQuoted(line, i);
      word = (word ?? '') + quoted.text;
      i = quoted.next;
    } else if (c === '\\') {
      if (i + 1 >= line.length) throw new TokenizeError('a \\ at the end escapes nothing', i);
      if (line.charAt(i + 1) !== '\n') word = (word ?? '') + line.charAt(i + 1);
      i += 2;
    } else if (/\s/.test(c)) {
      if (word !== undefined) argv.push(word);
      word = undefined;
      i += 1;
    } else {
      // `#` and `~` count only where a shell would act on them: at a word's start.
      if (SHELL_ONLY.has(c) && (word === undefined || !'#~'.includes(c))) shellSyntax.add(c);
      word = (word ?? '') + c;
      i += 1;
    }
  }
  if (word !== undefined) argv.push(word);
  return { argv, shellSyntax: [...shellSyntax] };
}

function doubleQuoted(line: string, start: number): { text: string; next: number } {
  let text = '';
  let i = start + 1;
  while (i < line.length) {
    const c = line.charAt(i);
    if (c === '"') return { text, next: i + 1 };
    if (c === '\\' && i + 1 < line.length) {
      const next = line.charAt(i + 1);
      if (next === '\n') text += '';
      else text += '"\\$`'.includes(next) ? next : c + next;
      i += 2;
    } else {
      text += c;
      i += 1;
    }
  }
  throw new TokenizeError('this " has no closing one', start);
}

/** The reverse: a line that `tokenize` splits into exactly `argv`. */
export function quote(argv: readonly string[]): string {
  return argv
    .map((arg) => (/^[A-Za-z0-9_@%+=:,./-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", `'\\''`)}'`))
    .join(' ');
}

/** Parses `KEY=value` lines (blank lines are skipped) into an environment. */
export function parseEnv(text: string): Record<string, string> {
  const env: Record<string, string> = {};
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue;
    const equals = line.indexOf('=');
    const key = line.slice(0, equals).trim();
    if (equals < 0 || !/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) {
      throw new TokenizeError(`“${line.trim()}” is not KEY=value`, 0);
    }
    env[key] = line.slice(equals + 1);
  }
  return env;
}
