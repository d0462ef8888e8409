import { ApiError, setPendingHandler, setUnauthorizedHandler } from './api/client';
import * as api from './api/endpoints';
import type { Identity, Info, Scope } from './api/types';
import { live } from './live.svelte';
import { go, route } from './router.svelte';

let identity = $state<Identity | undefined>();
let server = $state<Info | undefined>();
let ready = $state(false);
let pending = $state(0);
/** Why the server could not be asked who we are. */
let failure = $state<unknown>();

setPendingHandler((count) => (pending = count));
setUnauthorizedHandler(() => {
  identity = undefined;
  live.stop();
  if (route.page === 'login') return;
  go(`/login?next=${encodeURIComponent(route.full)}`, true);
});

function enter(who: Identity): void {
  identity = who;
  live.start();
}

export const auth = {
  get identity(): Identity | undefined {
    return identity;
  },
  get server(): Info | undefined {
    return server;
  },
  /** False until it is known whether there is a login. */
  get ready(): boolean {
    return ready;
  },
  /** Requests under way, for the progress line. */
  get pending(): number {
    return pending;
  },
  get failure(): unknown {
    return failure;
  },
  can(scope: Scope): boolean {
    return identity?.scopes.includes(scope) ?? false;
  },
  async start(): Promise<void> {
    void api.info().then((it) => (server = it), () => {});
    try {
      enter(await api.me());
      failure = undefined;
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 401)) failure = error;
      else if (route.page !== 'login') go(`/login?next=${encodeURIComponent(route.full)}`, true);
    } finally {
      ready = true;
    }
  },
  async login(user: string, password: string): Promise<void> {
    enter(await api.login(user, password));
    const next = route.query.get('next') ?? '/machines';
    // Only ever a path of this site, never `//elsewhere`.
    go(/^\/(?![/\\])/.test(next) && !next.startsWith('/login') ? next : '/machines', true);
  },
  async logout(): Promise<void> {
    await api.logout().catch(() => {});
    identity = undefined;
    live.stop();
    go('/login');
  },
};
