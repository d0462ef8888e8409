import { load, store } from './storage';

export type ThemeChoice = 'system' | 'light' | 'dark';

const media = matchMedia('(prefers-color-scheme: dark)');
let choice = $state<ThemeChoice>(load<ThemeChoice>('theme', 'system'));
let systemDark = $state(media.matches);
media.addEventListener('change', (event) => (systemDark = event.matches));

export const theme = {
  get choice(): ThemeChoice {
    return choice;
  },
  get dark(): boolean {
    return choice === 'system' ? systemDark : choice === 'dark';
  },
  set(next: ThemeChoice): void {
    choice = next;
    store('theme', next);
    applyTheme();
  },
  toggle(): void {
    theme.set(theme.dark ? 'light' : 'dark');
  },
};

/** Called before the first paint, and on every change. */
export function applyTheme(): void {
  document.documentElement.dataset.theme = choice;
}
