/** Life-cycle work on machines: asked for once, done for each, told where each stands. */
import { SvelteMap } from 'svelte/reactivity';
import * as api from './api/endpoints';
import type { Command } from './api/types';
import { fromCommand, newer, waiting, type Cell } from './fanout';
import { live } from './live.svelte';
import { OPERATION_TEXT, type Operation, type Row } from './machines';
import { ask, messageOf } from './notify.svelte';

/** Requests under way at once; a browser opens six connections at most. */
const AT_ONCE = 4;

export interface Batch {
  title: string;
  cells: SvelteMap<string, Cell>;
}

let batch = $state.raw<Batch | undefined>();
const ours = new Map<string, string>();
/** The event of a command may overtake the answer that tells its id. */
const recent = new Map<string, Command>();
const RECENT = 1000;

live.onCommand((command) => {
  if (command.argv || command.shell) return;
  recent.delete(command.id);
  recent.set(command.id, command);
  if (recent.size > RECENT) recent.delete(recent.keys().next().value ?? '');
  const target = ours.get(command.id);
  if (target !== undefined) put({ ...fromCommand(command), target });
});

function put(cell: Cell): void {
  const { cells } = batch ?? {};
  if (cells?.has(cell.target)) cells.set(cell.target, newer(cells.get(cell.target), cell));
}

const REQUEST: Record<Operation, (target: string) => Promise<Command>> = {
  start: api.startMachine,
  stop: (it) => api.stopMachine(it, 'graceful'),
  force: (it) => api.stopMachine(it, 'force'),
  suspend: (it) => api.stopMachine(it, 'suspend'),
  delete: (it) => api.deleteMachine(it, false),
  purge: (it) => api.deleteMachine(it, true),
};

export const operations = {
  /** The last thing asked for, with the state of each target. */
  get batch(): Batch | undefined {
    return batch;
  },
  dismiss(): void {
    batch = undefined;
    ours.clear();
  },

  /** Asks when something could be lost, then does it to all. Resolves once each was asked for. */
  async run(operation: Operation, rows: Row[], soft = false): Promise<boolean> {
    const { title, label } = OPERATION_TEXT[operation];
    if (operation !== 'start' || rows.length > 1) {
      const names = rows.slice(0, 12).map((it) => it.target).join(', ');
      const others = rows.length > 12 ? ` and ${rows.length - 12} more` : '';
      const sure = await ask(title(rows.length), `${names}${others}. ${bodyOf(operation, soft)}`.trim(),
        [{ label, value: true, kind: operation === 'start' ? 'primary' as const : 'danger' as const }]);
      if (!sure) return false;
    }
    ours.clear();
    batch = { title: label, cells: new SvelteMap(rows.map((it) => [it.target, waiting(it.target)])) };
    const queue = rows.map((it) => it.target);
    const worker = async () => {
      for (let target = queue.shift(); target !== undefined; target = queue.shift()) await one(operation, target);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    return true;
  },
};

function bodyOf(operation: Operation, soft: boolean): string {
  if (operation !== 'delete') return OPERATION_TEXT[operation].body;
  return soft ? 'They stay listed as deleted and can be recovered until they are purged.' : 'All data on it is lost. This can not be undone.';
}

async function one(operation: Operation, target: string): Promise<void> {
  try {
    const command = await REQUEST[operation](target);
    ours.set(command.id, target);
    const told = recent.get(command.id);
    live.noteOperation(told ?? command);
    put({ ...fromCommand(told ?? command), target });
  } catch (error) {
    put({ ...waiting(target), state: 'failed', error: messageOf(error) });
  }
}
