import { del, get, patch, post, send, withQuery, type Query } from './client';
import type {
  ActionAnswer, Agent, AuditEntry, Command, CommandSpec, CreateMachine, FanoutSpec, FileInfo, Identity, Info, Items, JoinCode, Load, Machine, MachineList, Metrics, NewRuntime, NewToken, NewUser, Page, Provider, Runtime, RuntimeSpec, Scope, Session, SessionSpec, SignalName, StopMode, Target, Token, User, UserChange,
} from './types';

const V1 = '/api/v1';
const seg = encodeURIComponent;
const target = (name: string): string => `${V1}/targets/${seg(name)}`;
const command = (id: string): string => `${V1}/commands/${seg(id)}`;
const session = (id: string): string => `${V1}/sessions/${seg(id)}`;

/** All topics the server has: naming one it lacks would be refused. */
export const EVENTS_PATH = `${V1}/events`;

export const info = () => get<Info>(`${V1}/info`);
export const me = () => get<Identity>(`${V1}/me`);
export const login = (user: string, password: string) => post<Identity>(`${V1}/login`, { user, password });
export const logout = () => post(`${V1}/logout`);
export const changePassword = (old: string, next: string) =>
  post(`${V1}/me/password`, { old, new: next });

export const targets = () => get<Items<Target>>(`${V1}/targets`);
export const targetLoad = (name: string) => get<Items<Load>>(`${target(name)}/load`);

export const providers = () => get<Items<Provider>>(`${V1}/providers`);
export const machines = () => get<MachineList>(`${V1}/machines`, { include_deleted: true });
export const createMachine = (spec: CreateMachine) => post<Command>(`${V1}/machines`, spec);
export const startMachine = (name: string) => post<Command>(`${target(name)}/start`, {});
export const stopMachine = (name: string, mode: StopMode) => post<Command>(`${target(name)}/stop`, { mode });
export const deleteMachine = (name: string, purge: boolean) => post<Command>(`${target(name)}/delete`, { purge });
export const machineOf = (name: string) => get<Machine>(`${target(name)}/machine`);
export const act = (name: string, action: string, args: Record<string, unknown>) =>
  post<ActionAnswer>(`${target(name)}/actions/${seg(action)}`, { args });
export const actOnProvider = (name: string, agent: string | null, action: string, args: Record<string, unknown>) =>
  post<ActionAnswer>(withQuery(`${V1}/providers/${seg(name)}/actions/${seg(action)}`, { agent }), { args });
export const targetMetrics = (name: string, query: Query, signal?: AbortSignal) =>
  get<Metrics>(`${target(name)}/metrics`, query, signal);

export const fanout = (spec: FanoutSpec) => post<Command>(`${V1}/fanout`, spec);

const agent = (id: string): string => `${V1}/agents/${seg(id)}`;
export const agents = () => get<Items<Agent>>(`${V1}/agents`);
export const removeAgent = (id: string) => del(agent(id));
export const joinCode = (labels: Record<string, string>, expires_in_s: number) =>
  post<JoinCode>(`${V1}/agents/join-codes`, { labels, expires_in_s });
export const agentMetrics = (id: string, query: Query, signal?: AbortSignal) =>
  get<Metrics>(`${agent(id)}/metrics`, query, signal);

export const createCommand = (spec: CommandSpec) => post<Command>(`${V1}/commands`, spec);
export const commands = (query: Query, signal?: AbortSignal) =>
  get<Page<Command>>(`${V1}/commands`, query, signal);
export const getCommand = (id: string) => get<Command>(command(id));
export const signalCommand = (id: string, signal: SignalName) => post(`${command(id)}/signal`, { signal });
export const cancelCommand = (id: string) => post<Command>(`${command(id)}/cancel`);
export const commandAttachPath = (id: string) => `${command(id)}/attach`;
export const commandOutputUrl = (id: string) => `${command(id)}/output?follow=false`;
export const commandOutputPath = (id: string) => `${command(id)}/output`;
export const commandCastUrl = (id: string) => `${command(id)}/output.cast`;

export const sessions = () => get<Items<Session>>(`${V1}/sessions`);
export const createSession = (spec: SessionSpec) => post<Session>(`${V1}/sessions`, spec);
export const getSession = (id: string) => get<Session>(session(id));
export const closeSession = (id: string) => del<Session>(session(id));
export const sessionAttachPath = (id: string) => `${session(id)}/attach`;

const runtime = (id: string): string => `${V1}/runtimes/${seg(id)}`;
export const runtimes = () => get<Items<Runtime>>(`${V1}/runtimes`);
export const createRuntime = (spec: RuntimeSpec) => post<NewRuntime>(`${V1}/runtimes`, spec);
export const getRuntime = (id: string) => get<Runtime>(runtime(id));
export const endRuntime = (id: string) => del(runtime(id));
export const runtimeEventsPath = (id: string) => `${runtime(id)}/events?output=false`;

export const fileUrl = (name: string, path: string) => withQuery(`${target(name)}/files`, { path });
export const uploadUrl = (name: string, path: string, create_parents: boolean) =>
  withQuery(`${target(name)}/files`, { path, create_parents: create_parents || undefined });
export const listFiles = (name: string, path: string, signal?: AbortSignal) =>
  get<Items<FileInfo>>(`${target(name)}/files/list`, { path }, signal);
export const makeDir = (name: string, path: string) => post(`${target(name)}/files/mkdir`, { path });
/** The first `most` bytes of a file. */
export const fileHead = async (name: string, path: string, most: number, signal?: AbortSignal): Promise<Uint8Array> => {
  const response = await send(fileUrl(name, path), { headers: { range: `bytes=0-${most - 1}` }, signal: signal ?? null });
  return new Uint8Array(await response.arrayBuffer());
};
export const renameFile = (name: string, from: string, to: string) =>
  post(`${target(name)}/files/rename`, { from, to });
export const removeFile = (name: string, path: string, recursive: boolean) =>
  del(withQuery(`${target(name)}/files`, { path, recursive }));
export const tarUrl = (name: string, path: string) => withQuery(`${target(name)}/files/tar`, { path });

export const tokens = () => get<Items<Token>>(`${V1}/tokens`);
export const createToken = (name: string, scopes: Scope[], expires_in_s: number | null) =>
  post<NewToken>(`${V1}/tokens`, { name, scopes, expires_in_s });
export const revokeToken = (id: string) => del(`${V1}/tokens/${seg(id)}`);

const user = (name: string): string => `${V1}/users/${seg(name)}`;
export const users = () => get<Items<User>>(`${V1}/users`);
export const createUser = (spec: NewUser) => post<User>(`${V1}/users`, spec);
export const changeUser = (name: string, change: UserChange) => patch<User>(user(name), change);
export const removeUser = (name: string) => del(user(name));

export const audit = (query: Query) => get<Page<AuditEntry>>(`${V1}/audit`, query);

export const castText = async (id: string): Promise<string> => (await send(commandCastUrl(id))).text();
