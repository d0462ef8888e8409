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

/** A line of the output of a fan-out's parent. */
export interface FanoutLine {
  target: string;
  command?: string | null;
  state: string;
  exit?: Command['exit'];
  error?: string | null;
}

export interface Agent {
  id: string;
  online?: boolean;
  version?: string | null;
  labels?: Record<string, string>;
  last_seen?: string | null;
  connected_at?: string | null;
  hostname?: string | null;
  os?: string | null;
  arch?: string | null;
  load?: Load | null;
}

/** Payload of the event `agent`. */
export type AgentEvent = Agent & { gone?: boolean };

export interface JoinCode {
  code: string;
  expires_at: string;
  command: string;
}

export type MetricName = 'cpu' | 'memory' | 'swap' | 'load1' | 'disk' | 'net_rx' | 'net_tx';

/** `[seconds since 1970, value]`, oldest first. */
export type Series = [number, number | null][];

export interface Metrics {
  series: Partial<Record<MetricName, Series>>;
}
