import { SvelteMap } from 'svelte/reactivity';
import * as api from './api/endpoints';
import { openEvents, type SseEvent } from './api/sse';
import type { Command, Load, LoadEvent, Session, SessionClosed, Target } from './api/types';

/** Five minutes at two seconds, as the server keeps. */
const LOAD_POINTS = 150;

const targets = new SvelteMap<string, Target>();
const sessions = new SvelteMap<string, Session>();
const loads = new SvelteMap<string, Load[]>();
const commandListeners = new Set<(command: Command) => void>();
let loaded = $state(false);
let failure = $state<unknown>();
let connected = $state(true);
/** Grows whenever lists fetched earlier may have missed changes. */
let epoch = $state(0);
let started = false;
let stopEvents: (() => void) | undefined;

/** Sessions told by events while a list is on its way: the events are newer than the list. */
const newer = new Set<string>();

async function reload(): Promise<void> {
  newer.clear();
  try {
    const [machines, open] = await Promise.all([api.targets(), api.sessions()]);
    replace(targets, machines.items, (it) => it.target);
    const older = open.items.filter((it) => !it.ended && !newer.has(it.id));
    const fresh = [...sessions.values()].filter((it) => newer.has(it.id));
    replace(sessions, [...older, ...fresh], (it) => it.id);
    failure = undefined;
    loaded = true;
    for (const { target } of machines.items) void reloadLoad(target);
  } catch (error) {
    failure = error;
  }
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

function replace<T>(map: SvelteMap<string, T>, items: T[], key: (item: T) => string): void {
  const keep = new Set(items.map(key));
  for (const old of [...map.keys()]) if (!keep.has(old)) map.delete(old);
  for (const item of items) map.set(key(item), item);
}

function onEvent({ event, data }: SseEvent): void {
  const body: unknown = JSON.parse(data);
  if (event === 'load') {
    const { target, load } = body as LoadEvent;
    loads.set(target, [...(loads.get(target) ?? []), load].slice(-LOAD_POINTS));
    const known = targets.get(target);
    if (known) targets.set(target, { ...known, load });
  } else if (event === 'command') {
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

/** What the server tells by itself: targets with their load, sessions, commands. */
export const live = {
  targets,
  sessions,
  loads,
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
    targets.clear();
    sessions.clear();
    loads.clear();
  },
  onCommand(listener: (command: Command) => void): () => void {
    commandListeners.add(listener);
    return () => commandListeners.delete(listener);
  },
};
