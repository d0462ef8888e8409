import { describe, expect, it } from 'vitest';
import { fieldsOf, freeName, nameError, templatesOf, toSpec } from './templates';

describe('toSpec', () => {
  it('sends only what was filled in, options apart', () => {
    const { spec, errors } = toSpec('sandbox', null, 'dev1', { image: ' ', memory_bytes: '512M', 'options.network': true, 'options.processes': '64', labels: 'role=web' });
    expect(errors).toEqual({});
    expect(spec).toEqual({ provider: 'sandbox', name: 'dev1', memory_bytes: 2 ** 29, labels: { role: 'web' }, options: { network: true, processes: 64 } });
  });
  it('names the agent, and keeps cloud-init to the letter', () => {
    const user_data = '#cloud-config\nruncmd:\n  - ls\n';
    expect(toSpec('multipass', 'office-1', 'a', { user_data, 'options.mounts': '/a:/b\n\n/c:/d' }).spec)
      .toEqual({ provider: 'multipass', agent: 'office-1', name: 'a', user_data, options: { mounts: ['/a:/b', '/c:/d'] } });
  });
  it('never sends a field the provider does not take', () => {
    expect(toSpec('sandbox', null, 'a', { disk_bytes: '5G', region: 'x' }).spec).toEqual({ provider: 'sandbox', name: 'a' });
  });
  it('takes free options for a provider it does not know', () => {
    expect(toSpec('other', null, 'a', { options: 'tier=gold' }).spec.options).toEqual({ tier: 'gold' });
  });
  it('tells each wrong field', () => {
    expect(Object.keys(toSpec('sandbox', null, '-a', { cpus: '0', memory_bytes: 'lots', labels: 'web' }).errors).sort())
      .toEqual(['cpus', 'labels', 'memory_bytes', 'name']);
  });
  it('fits every template to its provider', () => {
    for (const provider of ['sandbox', 'multipass']) {
      const keys = fieldsOf(provider).map((it) => it.key);
      for (const { values } of templatesOf(provider)) {
        expect(keys).toEqual(expect.arrayContaining(Object.keys(values)));
        expect(toSpec(provider, null, 'a', values).errors).toEqual({});
      }
    }
  });
});

it.each([['dev1', true], ['a.b_c-1', true], ['', false], ['--all', false], ['../x', false], ['a/b', false], ['ä', false], ['x'.repeat(64), false]])('name %s', (name, fine) => {
  expect(nameError(name) === undefined).toBe(fine);
});

it('finds a name that is free', () => expect(freeName(new Set(['dev1', 'dev2', 'dev4']))).toBe('dev3'));
