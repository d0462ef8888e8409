import { SvelteMap } from 'svelte/reactivity';
import { ApiError } from './api/client';
import * as api from './api/endpoints';
import { openEvents, type SseEvent } from './api/sse';
import type {
  Agent, Command, FilesChanged, Load, LoadEvent, Machine, MachineEvent, Provider, ProviderFailure, Session, SessionClosed, Target,
} from './api/types';
import { isParent } from './fanout';

/** Five minutes at two seconds, as the server keeps. */
const LOAD_POINTS = 150;

const targets = new SvelteMap<string, Target>();
const sessions = new SvelteMap<string, Session>();
const machines = new SvelteMap<string, Machine>();
const agents = new SvelteMap<string, Agent>();
/** The newest load of each target. Apart from `targets`, so that a number that moves does not rebuild every list. */
const newest = new SvelteMap<string, Load>();
/** History of the targets somebody looks at, with how many do. */
const loads = new SvelteMap<string, Load[]>();
const watched = new Map<string, number>();
/** Life-cycle commands under way, by target. */
const operations = new SvelteMap<string, Command>();
let providers = $state.raw<Provider[]>([]);
let providerFailures = $state.raw<ProviderFailure[]>([]);
/** Parts an older server does not have. */
let hasMachines = $state(false);
let machinesLoaded = $state(false);
let hasAgents = $state(false);
let hasRuntimes = $state(false);
const commandListeners = new Set<(command: Command) => void>();
const filesListeners = new Set<(change: FilesChanged) => void>();
const auditListeners = new Set<() => void>();
let loaded = $state(false);
let failure = $state<unknown>();
let connected = $state(true);
/** Grows whenever lists fetched earlier may have missed changes. */
let epoch = $state(0);
let started = false;
let stopEvents: (() => void) | undefined;

/** Told by events while a list is on its way: the events are newer than the list. */
const newer = new Set<string>();

/** The answer, or undefined when the server has no such route. */
async function optional<T>(request: Promise<T>): Promise<T | undefined> {
  try {
    return await request;
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 501)) return undefined;
    throw error;
  }
}

let reloads = 0;

async function reload(): Promise<void> {
  const own = ++reloads;
  newer.clear();
  // A provider that is slow to answer must not hold up the rest.
  for (const part of [reloadMachines(), reloadAgents(), reloadRuntimes(), reloadOperations()]) void part.catch(() => {});
  try {
    const [all, open] = await Promise.all([api.targets(), api.sessions()]);
    if (own !== reloads) return;
    replace(targets, all.items, (it) => it.target);
    for (const { target, load } of all.items) if (load) newest.set(target, load);
    const older = open.items.filter((it) => !it.ended && !newer.has(it.id));
    const fresh = [...sessions.values()].filter((it) => newer.has(it.id));
    replace(sessions, [...older, ...fresh], (it) => it.id);
    failure = undefined;
    loaded = true;
    for (const target of watched.keys()) void reloadLoad(target);
  } catch (error) {
    if (own === reloads) failure = error;
  }
}

async function reloadTargets(): Promise<void> {
  const { items } = await api.targets();
  replace(targets, items, (it) => it.target);
}

async function reloadMachines(): Promise<void> {
  let list;
  try {
    const found = await optional(api.providers());
    hasMachines = found !== undefined;
    if (!found) return;
    providers = found.items;
    list = await optional(api.machines());
  } finally {
    machinesLoaded = true;
  }
  if (!list) return;
  const fresh = [...machines.values()].filter((it) => newer.has(it.target));
  replace(machines, [...list.items.filter((it) => !newer.has(it.target)), ...fresh], (it) => it.target);
  providerFailures = list.errors;
}

async function reloadAgents(): Promise<void> {
  const found = await optional(api.agents());
  hasAgents = found !== undefined;
  if (!found) return;
  replace(agents, found.items, (it) => it.id);
  for (const { id, load } of found.items) if (load) newest.set(id, load);
}

async function reloadRuntimes(): Promise<void> {
  hasRuntimes = (await optional(api.runtimes())) !== undefined;
}

async function reloadOperations(): Promise<void> {
  const { items } = await api.commands({ state: ['queued', 'running'], limit: 1000 });
  operations.clear();
  for (const it of items) noteOperation(it);
}

/** Commands that are neither a program nor a line for a shell are what providers do. */
function noteOperation(it: Command): void {
  if (it.argv || it.shell || isParent(it)) return;
  if (it.state === 'queued' || it.state === 'running') operations.set(it.target, it);
  else if (operations.get(it.target)?.id === it.id) operations.delete(it.target);
}

async function reloadLoad(target: string): Promise<void> {
  try {
    const { items } = await api.targetLoad(target);
    const last = items.at(-1)?.at ?? '';
    const since = (loads.get(target) ?? []).filter((it) => it.at > last);
    loads.set(target, [...items, ...since].slice(-LOAD_POINTS));
  } catch {
    // A target without load numbers simply has no chart.
  }
}

/** Runs `work` once, a moment after the last of many calls. */
function soon(work: () => Promise<void>, ms = 300): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return () => {
    clearTimeout(timer);
    // What fails now comes with the next event or the next connection.
    timer = setTimeout(() => started && void work().catch(() => {}), ms);
  };
}
const targetsChanged = soon(reloadTargets);
const machinesChanged = soon(reloadMachines);

const loadQueue = new Map<string, Load[]>();
let flushing: ReturnType<typeof setTimeout> | undefined;

/** Loads of thousands of agents are drawn a few times a second, not each by itself. */
function queueLoad({ target, load }: LoadEvent): void {
  const queue = loadQueue.get(target);
  if (queue) queue.push(load);
  else loadQueue.set(target, [load]);
  flushing ??= setTimeout(() => {
    flushing = undefined;
    for (const [name, fresh] of loadQueue) {
      const last = fresh.at(-1);
      if (last) newest.set(name, last);
      if (watched.has(name)) loads.set(name, [...(loads.get(name) ?? []), ...fresh].slice(-LOAD_POINTS));
    }
    loadQueue.clear();
  }, 250);
}

function onMachine(event: MachineEvent): void {
  newer.add(event.target);
  if ('gone' in event) machines.delete(event.target);
  else machines.set(event.target, { ...machines.get(event.target), ...event });
  // What runs can be reached: a target comes or goes with it.
  targetsChanged();
}

function onAgent(agent: Agent): void {
  const known = agents.get(agent.id);
  if (agent.load) queueLoad({ target: agent.id, load: agent.load });
  if (known?.online === agent.online && known.connected === agent.connected) {
    agentQueue.set(agent.id, agent);
    agentFlush ??= setTimeout(flushAgents, 1_000);
    return;
  }
  agentQueue.delete(agent.id);
  agents.set(agent.id, agent);
  // Its host, and the machines behind it, can be reached or no longer.
  targetsChanged();
  machinesChanged();
}

/** Heartbeats of thousands change little: they are taken in together. */
const agentQueue = new Map<string, Agent>();
let agentFlush: ReturnType<typeof setTimeout> | undefined;
function flushAgents(): void {
  agentFlush = undefined;
  for (const [id, agent] of agentQueue) if (agents.has(id)) agents.set(id, agent);
  agentQueue.clear();
}

function replace<T>(map: SvelteMap<string, T>, items: T[], key: (item: T) => string): void {
  const keep = new Set(items.map(key));
  for (const old of [...map.keys()]) if (!keep.has(old)) map.delete(old);
  for (const item of items) map.set(key(item), item);
}

function onEvent({ event, data }: SseEvent): void {
  const body: unknown = JSON.parse(data);
  if (event === 'load') {
    queueLoad(body as LoadEvent);
    return;
  }
  if (event === 'machine') {
    onMachine(body as MachineEvent);
  } else if (event === 'agent') {
    onAgent(body as Agent);
  } else if (event === 'agent_removed') {
    const { id } = body as { id: string };
    agents.delete(id);
    agentQueue.delete(id);
    targetsChanged();
    machinesChanged();
  } else if (event === 'command') {
    noteOperation(body as Command);
    for (const listener of commandListeners) listener(body as Command);
  } else if (event === 'session') {
    const session = body as Session;
    newer.add(session.id);
    if (session.ended) sessions.delete(session.id);
    else sessions.set(session.id, session);
  } else if (event === 'session_closed') {
    const { id } = body as SessionClosed;
    newer.add(id);
    sessions.delete(id);
  } else if (event === 'files') {
    for (const listener of filesListeners) listener(body as FilesChanged);
  } else if (event === 'audit') {
    for (const listener of auditListeners) listener();
  } else if (event === 'lagged') {
    epoch += 1;
    void reload();
  }
}

/**
 * Browsers allow six connections to a server over HTTP/1.1, shared by all tabs:
 * a tab nobody looks at gives its event stream back after a while.
 */
const HIDDEN_MS = 20_000;
let hiding: ReturnType<typeof setTimeout> | undefined;

function onVisibility(): void {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      stopEvents?.();
      stopEvents = undefined;
    }, HIDDEN_MS);
  } else if (!stopEvents) {
    listen();
  }
}

/** Opens the event stream; what was listed before it opened may have changed unseen and is listed anew. */
function listen(): void {
  stopEvents = openEvents(api.EVENTS_PATH, {
    onEvent,
    onOpen() {
      connected = true;
      epoch += 1;
      void reload();
    },
    onLost() {
      connected = false;
    },
  });
}

/** What the server tells by itself: targets with their load, machines, agents, sessions, commands. */
export const live = {
  targets,
  sessions,
  machines,
  agents,
  newest,
  loads,
  operations,
  get providers(): Provider[] {
    return providers;
  },
  /** Providers that could not list their machines. */
  get providerFailures(): ProviderFailure[] {
    return providerFailures;
  },
  /** Whether the server manages machines (and runs on many at once). */
  get hasMachines(): boolean {
    return hasMachines;
  },
  /** Providers told what they have: what is in no list is nowhere. */
  get machinesLoaded(): boolean {
    return machinesLoaded;
  },
  get hasAgents(): boolean {
    return hasAgents;
  },
  get hasRuntimes(): boolean {
    return hasRuntimes;
  },
  reloadAgents,
  reloadMachines,
  get loaded(): boolean {
    return loaded;
  },
  get failure(): unknown {
    return failure;
  },
  get connected(): boolean {
    return connected;
  },
  get epoch(): number {
    return epoch;
  },
  reload,
  start(): void {
    if (started) return;
    started = true;
    void reload();
    listen();
    document.addEventListener('visibilitychange', onVisibility);
  },
  stop(): void {
    started = false;
    document.removeEventListener('visibilitychange', onVisibility);
    clearTimeout(hiding);
    stopEvents?.();
    stopEvents = undefined;
    connected = true;
    loaded = false;
    for (const map of [targets, sessions, loads, machines, agents, newest, operations]) map.clear();
    loadQueue.clear();
    agentQueue.clear();
    providers = [];
    hasMachines = hasAgents = machinesLoaded = false;
  },
  /** Keeps the load history of a target until the returned function is called. */
  watchLoad(target: string): () => void {
    watched.set(target, (watched.get(target) ?? 0) + 1);
    void reloadLoad(target);
    return () => {
      const left = (watched.get(target) ?? 1) - 1;
      if (left > 0) watched.set(target, left);
      else {
        watched.delete(target);
        loads.delete(target);
      }
    };
  },
  /** A command this page just made: its event may come later. */
  noteOperation,
  /** Told when files were changed through the server. */
  onFiles(listener: (change: FilesChanged) => void): () => void {
    filesListeners.add(listener);
    return () => filesListeners.delete(listener);
  },
  /** Told when the audit log grew; only admins are. */
  onAudit(listener: () => void): () => void {
    auditListeners.add(listener);
    return () => auditListeners.delete(listener);
  },
  onCommand(listener: (command: Command) => void): () => void {
    commandListeners.add(listener);
    return () => commandListeners.delete(listener);
  },
};
