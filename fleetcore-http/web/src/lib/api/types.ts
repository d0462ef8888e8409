/**
 * Names for the shapes of the HTTP API. They come from `schema.ts`, which
 * `npm run types` generates from the server's own OpenAPI document; only what
 * that document does not describe (frames of the WebSocket) is written here.
 */
import type { components } from './schema';

type Schemas = components['schemas'];

export type AuditEntry = Schemas['AuditLine'];
export type Channel = Schemas['Channel'];
export type Command = Schemas['Command'];
export type CommandSpec = Schemas['CreateCommand'];
export type CommandState = Schemas['CommandState'];
export type Exit = Schemas['Exit'];
export type ExitEvent = Schemas['ExitEvent'];
export type FileInfo = Schemas['FileInfo'];
export type Identity = Schemas['Login'];
export type Info = Schemas['Info'];
export type Load = Schemas['Load'];
export type LoadEvent = Schemas['LoadEvent'];
export type NewToken = Schemas['NewToken'];
export type Problem = Schemas['Problem'];
export type PtySize = Schemas['Size'];
export type Role = Schemas['Role'];
export type Scope = Schemas['Scope'];
export type Session = Schemas['Session'];
export type SessionClosed = Schemas['SessionClosed'];
export type SessionSpec = Pick<Schemas['CreateSession'], 'target' | 'cols' | 'rows'>;
export type SignalName = Schemas['Signal'];
export type Target = Schemas['Target'];
export type Token = Schemas['Token'];
export type User = Schemas['User'];
export type UserChange = Schemas['ChangeUser'];
export type NewUser = Schemas['CreateUser'];

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
