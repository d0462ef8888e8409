/**
 * Names for the shapes of the HTTP API. They come from `schema.ts`, which
 * `npm run types` generates from the server's own OpenAPI document; only what
 * that document does not describe (frames of the WebSocket) is written here.
 */
import type { components } from './schema';

type Schemas = components['schemas'];

export type ActionArgument = Schemas['ActionArgument'];
export type ActionInfo = Schemas['Action'];
export type Agent = Schemas['Agent'];
export type ArgumentKind = Schemas['ArgumentKind'];
export type AuditEntry = Schemas['AuditLine'];
export type Channel = Schemas['Channel'];
export type Command = Schemas['Command'];
export type CommandSpec = Schemas['CreateCommand'];
export type CommandState = Schemas['CommandState'];
export type CreateMachine = Schemas['CreateMachine'];
export type Exit = Schemas['Exit'];
export type ExitEvent = Schemas['ExitEvent'];
export type FanoutSpec = Schemas['CreateFanOut'];
export type FileInfo = Schemas['FileInfo'];
export type FilesChanged = Schemas['FilesChanged'];
export type Identity = Schemas['Login'];
export type Info = Schemas['Info'];
export type JoinCode = Schemas['NewJoinCode'];
export type Load = Schemas['Load'];
export type LoadEvent = Schemas['LoadEvent'];
export type Machine = Schemas['Machine'];
export type MachineCapabilities = Schemas['ProviderCapabilities'];
export type MachineList = Schemas['Machines'];
export type MachineState = Schemas['MachineState'];
export type MetricName = Exclude<keyof Schemas['MetricSeries'], 'uptime'>;
export type NewRuntime = Schemas['NewRuntime'];
export type NewToken = Schemas['NewToken'];
export type Problem = Schemas['Problem'];
export type Provider = Schemas['ProviderInfo'];
export type ProviderFailure = Schemas['MachinesError'];
export type PtySize = Schemas['Size'];
export type Role = Schemas['Role'];
export type Runtime = Schemas['Runtime'];
export type RuntimeAction = Schemas['ActionState'];
export type RuntimeSpec = Partial<Schemas['CreateRuntime']>;
export type Scope = Schemas['Scope'];
export type Session = Schemas['Session'];
export type SessionClosed = Schemas['SessionClosed'];
export type SessionSpec = Pick<Schemas['CreateSession'], 'target' | 'cols' | 'rows'>;
export type SignalName = Schemas['Signal'];
export type StopMode = Schemas['StopMode'];
export type Target = Schemas['Target'];
export type Token = Schemas['Token'];
export type User = Schemas['User'];
export type UserChange = Schemas['ChangeUser'];
export type NewUser = Schemas['CreateUser'];

/** `[seconds since 1970, value]`, oldest first; the document cannot say that they are pairs. */
export type Series = [number, number | null][];

/** What plots keep of `Metrics`: percent, bytes, load, bytes per second. */
export interface Metrics {
  series: Partial<Record<MetricName, Series>>;
  /** Null when the host is away. */
  totals?: Schemas['Metrics']['totals'];
}

/** Payload of the event `machine`. */
export type MachineEvent = Machine | Schemas['MachineGone'];

/** A question answers at once, a change becomes a command. */
export type ActionAnswer = Command | Schemas['ActionResult'];

/** A line of the output of a fan-out's parent; the document leaves the problem in it open. */
export type FanoutLine = Omit<Schemas['FanOutLine'], 'error'> & { error?: Partial<Problem> | null };

export interface Items<T> {
  items: T[];
}

export interface Page<T> extends Items<T> {
  next?: string | null;
}

/** Payload of an attach `state` frame; commands fill `state`, sessions the rest. */
export interface AttachState {
  state?: CommandState;
  cwd?: string | null;
  busy?: boolean;
  size?: PtySize;
}
