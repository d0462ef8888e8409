/**
 * Shapes of routes that the committed OpenAPI document does not have yet
 * (/providers, /machines, /fanout, /agents, metrics). To be replaced by names
 * from `schema.ts` as soon as `npm run types` brings them; nothing else may be
 * written by hand.
 */
import type { components } from './schema';
import type { Command, CommandSpec, Load } from './types';

export type MachineState = components['schemas']['MachineState'];

export interface MachineCapabilities {
  create: boolean;
  start: boolean;
  stop: boolean;
  stop_with_suspend: boolean;
  delete: boolean;
  delete_is_soft: boolean;
}

export type ArgumentKind = 'text' | 'integer' | 'flag' | 'list';

export interface ActionArgument {
  name: string;
  kind: ArgumentKind;
  required: boolean;
  about: string;
}

export interface ActionInfo {
  name: string;
  about: string;
  scope: 'provider' | 'machine' | 'either';
  changes: boolean;
  destroys: boolean;
  arguments: ActionArgument[];
}

export interface Provider {
  name: string;
  agent?: string | null;
  capabilities: MachineCapabilities;
  actions: ActionInfo[];
  available: boolean;
  reason?: string | null;
}

export interface Machine {
  target: string;
  provider: string;
  agent?: string | null;
  name: string;
  state: MachineState;
  native_state: string;
  addresses: string[];
  labels: Record<string, string>;
  created_at?: string | null;
}

export interface ProviderFailure {
  provider: string;
  agent?: string | null;
  problem: { title?: string; detail?: string; code?: string };
}

export interface MachineList {
  items: Machine[];
  errors: ProviderFailure[];
}

/** Payload of the event `machine`. */
export type MachineEvent = Machine | { target: string; gone: true };

export interface CreateMachine {
  provider: string;
  agent?: string;
  id?: string;
  name: string;
  image?: string;
  cpus?: number;
  memory_bytes?: number;
  disk_bytes?: number;
  region?: string;
  user_data?: string;
  labels?: Record<string, string>;
  options?: Record<string, unknown>;
}

export type StopMode = 'graceful' | 'force' | 'suspend';

/** A question answers at once, a change becomes a command. */
export type ActionAnswer = Command | { result: unknown };

export interface FanoutSpec {
  targets: string[];
  labels?: Record<string, string>;
  command: Omit<CommandSpec, 'target' | 'id'>;
  parallel?: number;
  batch?: number | null;
  max_failures?: number | null;
  id?: string;
}

/** A line of the output of a fan-out's parent: of a target, of a provider that failed, or the end. */
export interface FanoutLine {
  target?: string | null;
  provider?: string | null;
  command?: string | null;
  /** Of the command; also `skipped`. */
  state?: string | null;
  exit?: Command['exit'];
  error?: { code?: string; detail?: string; title?: string } | null;
}

export interface Agent {
  id: string;
  /** It was heard of lately. */
  online: boolean;
  /** Its link is up now. */
  connected: boolean;
  version?: string | null;
  labels: Record<string, string>;
  last_seen?: string | null;
  joined_at?: string | null;
  invited_by?: string | null;
  /** Commands that run there. */
  running: number;
  host?: components['schemas']['Host'] | null;
  load?: Load | null;
}

export interface JoinCode {
  code: string;
  expires_at: string;
  command: string;
}

export type MetricName = 'cpu' | 'memory' | 'swap' | 'load1' | 'disk' | 'net_rx' | 'net_tx';

/** `[seconds since 1970, value]`, oldest first. */
export type Series = [number, number | null][];

export interface Metrics {
  /** Percent, bytes, load, bytes per second. */
  series: Partial<Record<MetricName, Series>>;
  /** Null when the host is away. */
  totals?: { memory_bytes: number; swap_bytes: number; disk_bytes: number } | null;
}
