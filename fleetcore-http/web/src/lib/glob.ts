/**
 * Matches a target name as the server's patterns do: `*` is any text within one
 * part of a name, `?` one character, `**` as the last part one part or more.
 */
export function matcher(pattern: string): (name: string) => boolean {
  const parts = pattern.split('/');
  const source = parts.map((part, index) => (part === '**' && index === parts.length - 1
    ? '.+'
    : [...part].map((c) => (c === '*' ? '[^/]*' : c === '?' ? '[^/]' : c.replace(/[\\^$.|+()[\]{}]/g, '\\$&'))).join(''))).join('/');
  const expression = new RegExp(`^${source}$`, 'su');
  return (name) => expression.test(name);
}

/** Patterns as typed: separated by blanks or commas. */
export const splitPatterns = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

/** `key=value` words as typed; throws with what is wrong. */
export function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const word of text.split(/[\s,]+/).filter(Boolean)) {
    const equals = word.indexOf('=');
    if (equals <= 0) throw new Error(`“${word}” is not key=value`);
    labels[word.slice(0, equals)] = word.slice(equals + 1);
  }
  return labels;
}

export function matching(
  targets: Iterable<{ target: string; labels: Record<string, string> }>,
  patterns: string[],
  labels: Record<string, string>,
): string[] {
  const tests = patterns.map(matcher);
  return [...targets]
    .filter((it) => tests.some((test) => test(it.target)))
    .filter((it) => Object.entries(labels).every(([key, value]) => it.labels[key] === value))
    .map((it) => it.target);
}
