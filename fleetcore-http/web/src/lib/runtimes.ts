import type { Runtime, RuntimeAction } from './api/types';

/** What the server remembers too. */
const KEPT = 64;

/** The state after one event of a runtime's stream. */
export function follow(state: Runtime['state'], event: string, data: unknown): Runtime['state'] {
  if (event === 'started') return { ...state, running: data as RuntimeAction };
  if (event === 'ended') {
    const action = data as RuntimeAction;
    const others = state.actions.filter((it) => it.number !== action.number);
    const running = state.running?.number === action.number ? null : (state.running ?? null);
    return { ...state, running, actions: [action, ...others].slice(0, KEPT) };
  }
  if (event === 'shell') {
    const { main, session } = data as { main: boolean; session: string };
    return main ? { ...state, session } : state;
  }
  return state;
}
