import { SvelteMap } from 'svelte/reactivity';
import * as api from './api/endpoints';
import { openEvents, type SseEvent } from './api/sse';
import type { Command, Load, Session, Target } from './api/types';

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
let stopEvents: (() => void) | undefined;

async function reload(): Promise<void> {
  try {
    const [machines, open] = await Promise.all([api.targets(), api.sessions()]);
    replace(targets, machines.items, (it) => it.target);
    replace(sessions, open.items.filter((it) => !it.ended), (it) => it.id);
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
    const newer = (loads.get(target) ?? []).filter((it) => it.at > last);
    loads.set(target, [...items, ...newer].slice(-LOAD_POINTS));
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
    const { target, load } = body as { target: string; load: Load };
    loads.set(target, [...(loads.get(target) ?? []), load].slice(-LOAD_POINTS));
    const known = targets.get(target);
    if (known) targets.set(target, { ...known, load });
  } else if (event === 'command') {
    for (const listener of commandListeners) listener(body as Command);
  } else if (event === 'session') {
    const session = body as Session;
    if (session.ended) sessions.delete(session.id);
    else sessions.set(session.id, session);
  } else if (event === 'session_closed') {
    sessions.delete((body as { id: string }).id);
  } else if (event === 'lagged') {
    epoch += 1;
    void reload();
  }
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
    if (stopEvents) return;
    void reload();
    let first = true;
    stopEvents = openEvents(api.EVENTS_PATH, {
      onEvent,
      onOpen() {
        connected = true;
        if (!first) {
          epoch += 1;
          void reload();
        }
        first = false;
      },
      onLost() {
        connected = false;
      },
    });
  },
  stop(): void {
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
