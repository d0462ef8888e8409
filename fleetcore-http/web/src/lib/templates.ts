/** What a provider takes for a new machine, and ready-made choices. A provider unknown here gets every common field. */
import type { CreateMachine } from './api/types';
import { parseLabels } from './glob';
import { parseSize } from './actionForm';

export type FieldKind = 'text' | 'integer' | 'size' | 'flag' | 'list' | 'yaml' | 'pairs';

export interface Field {
  /** Key of the request; `options.x` goes into the options. */
  key: string;
  label: string;
  kind: FieldKind;
  hint?: string;
  placeholder?: string;
  /** Shown only with “More settings”. */
  more?: boolean;
}

export type Draft = Record<string, string | boolean>;

export interface Template {
  id: string;
  title: string;
  about: string;
  values: Draft;
}

const CPUS: Field = { key: 'cpus', label: 'Processors', kind: 'integer', placeholder: 'default' };
const MEMORY: Field = { key: 'memory_bytes', label: 'Memory', kind: 'size', placeholder: 'default, e.g. 2G' };
const DISK: Field = { key: 'disk_bytes', label: 'Disk', kind: 'size', placeholder: 'default, e.g. 20G' };
const LABELS: Field = { key: 'labels', label: 'Labels', kind: 'pairs', placeholder: 'role=web team=build', hint: 'To find it by, and for commands on many machines.' };
const CLOUD_INIT: Field = { key: 'user_data', label: 'Cloud-init', kind: 'yaml', placeholder: '#cloud-config', more: true };

const FIELDS: Record<string, Field[]> = {
  sandbox: [
    { key: 'image', label: 'Root file system', kind: 'text', placeholder: 'this host, read-only', hint: 'A name among the server’s images.' },
    CPUS, { ...MEMORY, placeholder: 'no limit, e.g. 512M' },
    { key: 'options.network', label: 'Network', kind: 'flag', hint: 'Without it nothing inside reaches any network.' },
    { key: 'options.processes', label: 'Most processes', kind: 'integer', placeholder: 'no limit', more: true },
    LABELS,
  ],
  multipass: [
    { key: 'image', label: 'Image', kind: 'text', placeholder: 'the current LTS, e.g. 24.04' },
    CPUS, MEMORY, DISK, LABELS, CLOUD_INIT,
    { key: 'options.mounts', label: 'Mounts', kind: 'list', placeholder: '/home/me/src:/src', hint: 'HOST:MACHINE, one per line.', more: true },
    { key: 'options.networks', label: 'Networks', kind: 'list', placeholder: 'en0', hint: 'Further networks, one per line.', more: true },
    { key: 'options.bridged', label: 'Bridged network', kind: 'flag', more: true },
    { key: 'options.timeout_secs', label: 'Give up after, seconds', kind: 'integer', placeholder: 'default', more: true },
    { key: 'region', label: 'Zone', kind: 'text', more: true },
  ],
};

const GENERIC: Field[] = [
  { key: 'image', label: 'Image', kind: 'text', placeholder: 'default' },
  CPUS, MEMORY, DISK, LABELS, CLOUD_INIT,
  { key: 'region', label: 'Region', kind: 'text', more: true },
  { key: 'options', label: 'Options', kind: 'pairs', placeholder: 'key=value', hint: 'Settings of this provider only.', more: true },
];

const TEMPLATES: Record<string, Template[]> = {
  sandbox: [
    { id: 'isolated', title: 'Isolated', about: 'The host’s programs, its own files, no network. Ready at once.', values: {} },
    { id: 'network', title: 'With network', about: 'As isolated, and it may reach the network: for downloads and builds.', values: { 'options.network': true } },
    { id: 'limited', title: 'Small and limited', about: 'One processor, 512 MiB, 128 processes: for code nobody trusts.', values: { cpus: '1', memory_bytes: '512M', 'options.processes': '128' } },
  ],
  multipass: [
    { id: 'small', title: 'Small', about: 'The current Ubuntu LTS with 1 processor, 1 GiB, 5 GiB.', values: { cpus: '1', memory_bytes: '1G', disk_bytes: '5G' } },
    { id: 'work', title: 'Workhorse', about: 'For builds: 4 processors, 8 GiB, 40 GiB.', values: { cpus: '4', memory_bytes: '8G', disk_bytes: '40G' } },
    {
      id: 'docker', title: 'Docker host', about: 'Docker installed by cloud-init: 2 processors, 4 GiB, 20 GiB.',
      values: {
        cpus: '2', memory_bytes: '4G', disk_bytes: '20G',
        user_data: '#cloud-config\npackage_update: true\npackages: [docker.io]\nruncmd:\n  - [usermod, -aG, docker, ubuntu]\n',
      },
    },
  ],
};

export const fieldsOf = (provider: string): Field[] => FIELDS[provider] ?? GENERIC;
export const templatesOf = (provider: string): Template[] => TEMPLATES[provider] ?? [];

/** As the server's own rule for a part of a target. */
export function nameError(name: string): string | undefined {
  if (name === '') return 'Give it a name.';
  if (name.length > 63) return 'At most 63 characters.';
  if (!/^[A-Za-z0-9]/.test(name)) return 'It begins with a letter or digit.';
  return /^[A-Za-z0-9._-]*$/.test(name) ? undefined : 'Letters, digits, “.”, “_” and “-” only.';
}

/** `dev1`, or the first number that is free. */
export function freeName(taken: ReadonlySet<string>, stem = 'dev'): string {
  for (let n = 1; ; n += 1) if (!taken.has(`${stem}${n}`)) return `${stem}${n}`;
}

export interface Checked {
  spec: CreateMachine;
  errors: Record<string, string>;
}

/** The request for a form; what is left empty is left out. */
export function toSpec(provider: string, agent: string | null, name: string, draft: Draft): Checked {
  const spec: Record<string, unknown> = { provider, name };
  if (agent) spec.agent = agent;
  const options: Record<string, unknown> = {};
  const errors: Record<string, string> = {};
  const wrong = nameError(name);
  if (wrong) errors.name = wrong;
  for (const field of fieldsOf(provider)) {
    const given = draft[field.key];
    let value: unknown;
    if (field.kind === 'flag') {
      if (given === true) value = true;
    } else {
      const text = String(given ?? '').trim();
      if (text === '') continue;
      try {
        value = valueOf(field.kind, text, String(given));
      } catch (error) {
        errors[field.key] = (error as Error).message;
      }
    }
    if (value === undefined) continue;
    if (field.key.startsWith('options.')) options[field.key.slice(8)] = value;
    else if (field.key === 'options') Object.assign(options, value);
    else spec[field.key] = value;
  }
  if (Object.keys(options).length > 0) spec.options = options;
  return { spec: spec as unknown as CreateMachine, errors };
}

function valueOf(kind: FieldKind, text: string, raw: string): unknown {
  if (kind === 'integer') {
    if (!/^[1-9]\d{0,9}$/.test(text)) throw new Error('A whole number above 0.');
    return Number(text);
  }
  if (kind === 'size') {
    const size = parseSize(text);
    if (!size) throw new Error('A size such as 512M or 2G.');
    return size;
  }
  if (kind === 'list') return text.split('\n').map((it) => it.trim()).filter(Boolean);
  if (kind === 'pairs') return parseLabels(text);
  return kind === 'yaml' ? raw : text;
}
