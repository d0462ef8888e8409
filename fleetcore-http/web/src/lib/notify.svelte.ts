import { ApiError } from './api/client';

export interface Toast {
  id: number;
  kind: 'info' | 'error';
  text: string;
}

export interface Choice<T> {
  label: string;
  value: T;
  kind?: 'primary' | 'danger';
}

export interface Question {
  title: string;
  body: string;
  choices: Choice<unknown>[];
  /** When set, a text field with this start value is shown. */
  input: string | undefined;
  answer(value: unknown, text: string): void;
}

let nextId = 1;
const toasts = $state<Toast[]>([]);
let question = $state<Question | undefined>();

export const notices = {
  get toasts(): Toast[] {
    return toasts;
  },
  get question(): Question | undefined {
    return question;
  },
};

export function dismiss(id: number): void {
  const index = toasts.findIndex((it) => it.id === id);
  if (index >= 0) toasts.splice(index, 1);
}

function show(kind: Toast['kind'], text: string, ms: number): void {
  const id = nextId++;
  toasts.push({ id, kind, text });
  setTimeout(() => dismiss(id), ms);
}

export const inform = (text: string): void => show('info', text, 4_000);

export function messageOf(error: unknown): string {
  if (error instanceof ApiError && error.field && !error.message.includes(error.field)) {
    return `${error.field}: ${error.message}`;
  }
  return error instanceof Error ? error.message : String(error);
}

/** Shows an error; a lost login needs no notice, the login page says it. */
export function report(error: unknown): void {
  if (error instanceof ApiError && error.status === 401) return;
  if (error instanceof DOMException && error.name === 'AbortError') return;
  show('error', messageOf(error), 9_000);
}

/** Asks with buttons; undefined when the dialog was dismissed. */
export function ask<T>(title: string, body: string, choices: Choice<T>[]): Promise<T | undefined> {
  return new Promise((resolve) => {
    question = {
      title, body, choices, input: undefined,
      answer(value) {
        question = undefined;
        resolve(value as T | undefined);
      },
    };
  });
}

/** Asks for a line of text; undefined when the dialog was dismissed. */
export function askText(title: string, body: string, label: string, start = ''): Promise<string | undefined> {
  return new Promise((resolve) => {
    question = {
      title, body, input: start, choices: [{ label, value: true, kind: 'primary' }],
      answer(value, text) {
        question = undefined;
        resolve(value === true && text.trim() !== '' ? text.trim() : undefined);
      },
    };
  });
}
