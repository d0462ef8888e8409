/** Every key the application takes, in the order the help shows them. */
export const SHORTCUTS: readonly { keys: string; what: string; where: string }[] = [
  { keys: 'Ctrl K / ⌘ K', what: 'Command palette (Ctrl Shift K inside a terminal)', where: 'Everywhere' },
  { keys: '?', what: 'This help', where: 'Everywhere' },
  { keys: 'g then m, r, h, f, e', what: 'Go to machines, run, history, files, terminals', where: 'Everywhere' },
  { keys: 'g then n, o, a, s, u', what: 'Go to agents, run on many, account, users, audit', where: 'Everywhere' },
  { keys: '↑ ↓ ← →', what: 'Walk the rows of machines, the cells of a grid', where: 'Machines, run on many' },
  { keys: '/', what: 'Go to the filter or search field', where: 'Everywhere' },
  { keys: 'Alt 1 … Alt 9', what: 'Terminal tab 1 … 9', where: 'Everywhere' },
  { keys: 'Alt Shift N', what: 'New terminal on the same target', where: 'Terminals' },
  { keys: 'Alt Shift W', what: 'Close the terminal tab', where: 'Terminals' },
  { keys: 'Alt Shift ↑', what: 'Leave the terminal: focus its tab', where: 'Terminals' },
  { keys: 'Ctrl Shift F', what: 'Search in the terminal', where: 'Terminals and output' },
  { keys: 'Ctrl Shift C / V', what: 'Copy, paste', where: 'Terminals' },
  { keys: 'Enter', what: 'Run (Ctrl Enter when there are several lines)', where: 'Run' },
  { keys: 'Space', what: 'Play or pause', where: 'Replay' },
];

/** True where a plain letter is text, not a shortcut. */
export function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement
    && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

export const inTerminal = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && target.closest('.xterm') !== null;

/** Combinations that belong to the application even while a terminal has focus. */
export function isAppKey(event: KeyboardEvent): boolean {
  const { key, altKey, ctrlKey, shiftKey, metaKey } = event;
  if (altKey && !ctrlKey && !metaKey && !shiftKey && /^Digit[1-9]$/.test(event.code)) return true;
  if (altKey && shiftKey && (event.code === 'KeyN' || event.code === 'KeyW' || key === 'ArrowUp')) return true;
  if (ctrlKey && shiftKey && /^Key[FCVK]$/.test(event.code)) return true;
  return metaKey && event.code === 'KeyK';
}
