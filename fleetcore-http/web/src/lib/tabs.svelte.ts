import * as api from './api/endpoints';
import type { Session } from './api/types';
import { live } from './live.svelte';
import { ask, report } from './notify.svelte';
import { go } from './router.svelte';
import { load, store } from './storage';

/** Ids of the sessions opened in this browser, in tab order. */
let order = $state<string[]>(load<string[]>('tabs', []));
let active = $state<string | undefined>(load<string | undefined>('tab', undefined));
/** Sessions whose screen was built here: it stays until closed, whatever becomes of them. */
let kept = $state<Record<string, Session>>({});

const isEnded = (id: string): boolean => kept[id]?.ended != null || (live.loaded && !live.sessions.has(id));

function save(): void {
  store('tabs', order);
  store('tab', active ?? null);
}

function remove(id: string): void {
  const index = order.indexOf(id);
  order = order.filter((it) => it !== id);
  delete kept[id];
  if (active === id) active = order[Math.min(Math.max(index, 0), order.length - 1)];
  save();
}

export const tabs = {
  /** Tabs to show: what was opened here and still is, or just ended. */
  get list(): Session[] {
    return order.flatMap((id) => (isEnded(id) ? kept[id] : live.sessions.get(id)) ?? []);
  },
  /** Live sessions of the server that have no tab here. */
  get others(): Session[] {
    return [...live.sessions.values()].filter((it) => !order.includes(it.id));
  },
  get active(): string | undefined {
    const { list } = tabs;
    return list.some((it) => it.id === active) ? active : list[0]?.id;
  },
  select(id: string): void {
    active = id;
    save();
  },
  selectIndex(index: number): void {
    const tab = tabs.list[index];
    if (tab) tabs.select(tab.id);
  },
  /** Opens a tab for a session that exists. */
  attach(id: string): void {
    // Ids of sessions that are no more go at the next chance.
    if (live.loaded) order = order.filter((it) => live.sessions.has(it) || it in kept);
    if (!order.includes(id)) order = [...order, id];
    active = id;
    save();
    go('/terminals');
  },
  async open(target: string, size?: { cols: number; rows: number }): Promise<void> {
    try {
      const session = await api.createSession({ target, cols: size?.cols ?? 80, rows: size?.rows ?? 24 });
      live.sessions.set(session.id, session);
      tabs.attach(session.id);
    } catch (error) {
      report(error);
    }
  },
  keep(session: Session): void {
    kept[session.id] = session;
  },
  markEnded(session: Session): void {
    kept[session.id] = { ...session, busy: false, ended: session.ended ?? { leaked: false } };
    live.sessions.delete(session.id);
  },
  isEnded,
  move(id: string, by: number): void {
    const from = order.indexOf(id);
    const to = from + by;
    if (from < 0 || to < 0 || to >= order.length) return;
    const next = [...order];
    next.splice(from, 1);
    next.splice(to, 0, id);
    order = next;
    save();
  },
  /** Ends the session; a busy one only after asking. */
  async close(session: Session): Promise<void> {
    if (tabs.isEnded(session.id)) return remove(session.id);
    if (live.sessions.get(session.id)?.busy ?? session.busy) {
      const choice = await ask('A command is still running',
        `The shell on ${session.target} is busy. Ending it stops what runs in it; keeping it lets it go on without a tab.`,
        [
          { label: 'Keep running, close tab', value: 'detach' },
          { label: 'End session', value: 'end', kind: 'danger' },
        ]);
      if (!choice) return;
      if (choice === 'detach') return remove(session.id);
    }
    try {
      await api.closeSession(session.id);
      live.sessions.delete(session.id);
      remove(session.id);
    } catch (error) {
      report(error);
    }
  },
  detach: remove,
};
