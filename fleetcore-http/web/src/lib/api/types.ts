/**
 * The shapes of the HTTP API, in one place so that they can be swapped for the
 * generated `schema.ts` (`npm run types`) without touching any other file.
 */

export type Scope = 'read' | 'run' | 'files' | 'machines' | 'admin';
export type CommandState = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled' | 'lost';
export type SignalName =
  | 'interrupt' | 'terminate' | 'kill' | 'hangup' | 'quit' | 'stop' | 'continue' | 'user1' | 'user2';

export interface Problem {
  type?: string;
  title: string;
  status: number;
  code: string;
  detail?: string;
  operation?: string;
  context?: Record<string, unknown>;
  retry_after_ms?: number | null;
}

export interface Page<T, C = string> {
  items: T[];
  next?: C | null;
}

export interface Identity {
  user: string;
  role: 'viewer' | 'operator' | 'admin';
  scopes: Scope[];
  expires_at?: string | null;
}

export interface Info {
  name: string;
  version: string;
  login_required: boolean;
}

export interface Load {
  at: string;
  cpu_percent: number;
  memory_used_bytes: number;
  memory_total_bytes: number;
  swap_used_bytes: number;
  load1: number;
  load5: number;
  load15: number;
  disk_used_bytes: number;
  disk_total_bytes: number;
  net_rx_bytes_per_s: number;
  net_tx_bytes_per_s: number;
}

export interface Host {
  hostname: string;
  os: string;
  kernel: string;
  arch: string;
  cpus: number;
  memory_bytes: number;
  uptime_s: number;
}

export interface Target {
  target: string;
  provider: string;
  state: string;
  native_state?: string;
  addresses: string[];
  labels: Record<string, string>;
  created_at?: string | null;
  capabilities?: (Record<string, unknown> & { pty?: boolean; actions?: string[] }) | null;
  host?: Host | null;
  load?: Load | null;
}

export interface PtySize {
  cols: number;
  rows: number;
}

export interface Exit {
  code?: number | null;
  signal?: number | null;
  reason?: string | null;
  leaked?: boolean;
  state?: CommandState;
}

export interface CommandSpec {
  id?: string;
  target: string;
  argv?: string[];
  shell?: string;
  cwd?: string | null;
  env?: Record<string, string>;
  clear_env?: boolean;
  user?: string | null;
  stdin?: boolean;
  merge?: boolean;
  pty?: PtySize | null;
  timeout_ms?: number | null;
  labels?: Record<string, string>;
}

export interface Command {
  id: string;
  target: string;
  argv?: string[] | null;
  shell?: string | null;
  display: string;
  cwd?: string | null;
  pty?: PtySize | null;
  actor?: string;
  labels?: Record<string, string>;
  state: CommandState;
  exit?: Exit | null;
  error?: string | null;
  output_bytes: number;
  created_at: string;
  started_at?: string | null;
  ended_at?: string | null;
  duration_ms?: number | null;
}

export interface SessionSpec {
  id?: string;
  target: string;
  cwd?: string | null;
  cols: number;
  rows: number;
}

export interface Session {
  id: string;
  target: string;
  shell: string[];
  cwd?: string | null;
  cols: number;
  rows: number;
  busy: boolean;
  turns: number;
  output_bytes: number;
  created_at: string;
  active_at: string;
  viewers: number;
  ended?: Exit | null;
}

/** Payload of an attach `state` frame; commands fill `state`, sessions the rest. */
export interface AttachState {
  state?: CommandState;
  cwd?: string | null;
  busy?: boolean;
  size?: PtySize;
}

export interface FileInfo {
  /** In a listing the name alone. */
  path: string;
  kind: 'file' | 'dir' | 'symlink' | 'other';
  size: number;
  mode?: string | null;
  modified_at?: string | null;
}

export interface Token {
  id: string;
  name: string;
  user: string;
  scopes: Scope[];
  created_at: string;
  expires_at?: string | null;
  last_used_at?: string | null;
}

export interface AuditEntry {
  seq: number;
  at: string;
  actor: string;
  action: string;
  target?: string | null;
  outcome: string;
  detail?: unknown;
}
