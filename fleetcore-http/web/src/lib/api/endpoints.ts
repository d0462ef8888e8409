import { del, get, post, send, withQuery, type Query } from './client';
import type {
  AuditEntry, Command, CommandSpec, FileInfo, Identity, Info, Items, Load, NewToken, Page, Scope, Session, SessionSpec,
  SignalName, Target, Token,
} from './types';

const V1 = '/api/v1';
const seg = encodeURIComponent;
const target = (name: string): string => `${V1}/targets/${seg(name)}`;
const command = (id: string): string => `${V1}/commands/${seg(id)}`;
const session = (id: string): string => `${V1}/sessions/${seg(id)}`;

export const EVENTS_PATH = `${V1}/events?topics=commands,sessions,load`;

export const info = () => get<Info>(`${V1}/info`);
export const me = () => get<Identity>(`${V1}/me`);
export const login = (user: string, password: string) => post<Identity>(`${V1}/login`, { user, password });
export const logout = () => post(`${V1}/logout`);
export const changePassword = (old: string, next: string) =>
  post(`${V1}/me/password`, { old, new: next });

export const targets = () => get<Items<Target>>(`${V1}/targets`);
export const targetLoad = (name: string) => get<Items<Load>>(`${target(name)}/load`);

export const createCommand = (spec: CommandSpec) => post<Command>(`${V1}/commands`, spec);
export const commands = (query: Query, signal?: AbortSignal) =>
  get<Page<Command>>(`${V1}/commands`, query, signal);
export const getCommand = (id: string) => get<Command>(command(id));
export const signalCommand = (id: string, signal: SignalName) => post(`${command(id)}/signal`, { signal });
export const cancelCommand = (id: string) => post<Command>(`${command(id)}/cancel`);
export const commandAttachPath = (id: string) => `${command(id)}/attach`;
export const commandOutputUrl = (id: string) => `${command(id)}/output?follow=false`;
export const commandCastUrl = (id: string) => `${command(id)}/output.cast`;

export const sessions = () => get<Items<Session>>(`${V1}/sessions`);
export const createSession = (spec: SessionSpec) => post<Session>(`${V1}/sessions`, spec);
export const getSession = (id: string) => get<Session>(session(id));
export const closeSession = (id: string) => del<Session>(session(id));
export const sessionAttachPath = (id: string) => `${session(id)}/attach`;

export const fileUrl = (name: string, path: string) => withQuery(`${target(name)}/files`, { path });
export const listFiles = (name: string, path: string, signal?: AbortSignal) =>
  get<Items<FileInfo>>(`${target(name)}/files/list`, { path }, signal);
export const makeDir = (name: string, path: string) => post(`${target(name)}/files/mkdir`, { path });
export const renameFile = (name: string, from: string, to: string) =>
  post(`${target(name)}/files/rename`, { from, to });
export const removeFile = (name: string, path: string, recursive: boolean) =>
  del(withQuery(`${target(name)}/files`, { path, recursive }));
export const tarUrl = (name: string, path: string) => withQuery(`${target(name)}/files/tar`, { path });

export const tokens = () => get<Items<Token>>(`${V1}/tokens`);
export const createToken = (name: string, scopes: Scope[], expires_in_s: number | null) =>
  post<NewToken>(`${V1}/tokens`, { name, scopes, expires_in_s });
export const revokeToken = (id: string) => del(`${V1}/tokens/${seg(id)}`);

export const audit = (query: Query) => get<Page<AuditEntry>>(`${V1}/audit`, query);

export const castText = async (id: string): Promise<string> => (await send(commandCastUrl(id))).text();
