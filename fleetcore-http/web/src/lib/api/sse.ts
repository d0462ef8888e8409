import { backoffMs } from '../backoff';
import { ApiError, send } from './client';

export interface SseEvent {
  event: string;
  data: string;
  id: string;
}

/** Incremental parser of `text/event-stream`; feed it text in pieces of any size. */
export class SseParser {
  #buffer = '';
  #event = '';
  #data: string[] = [];
  #id = '';
  #started = false;

  feed(chunk: string): SseEvent[] {
    this.#buffer += chunk;
    if (!this.#started && this.#buffer.length > 0) {
      this.#started = true;
      if (this.#buffer.charCodeAt(0) === 0xfeff) this.#buffer = this.#buffer.slice(1);
    }
    const events: SseEvent[] = [];
    for (;;) {
      const end = this.#buffer.search(/[\r\n]/);
      if (end < 0) break;
      // A CR at the very end may be the first half of CRLF: wait for the rest.
      if (this.#buffer[end] === '\r' && end + 1 === this.#buffer.length) break;
      const line = this.#buffer.slice(0, end);
      const crlf = this.#buffer[end] === '\r' && this.#buffer[end + 1] === '\n';
      this.#buffer = this.#buffer.slice(end + (crlf ? 2 : 1));
      const event = this.#line(line);
      if (event) events.push(event);
    }
    return events;
  }

  #line(line: string): SseEvent | undefined {
    if (line === '') {
      const data = this.#data;
      const event = this.#event || 'message';
      this.#data = [];
      this.#event = '';
      return data.length > 0 ? { event, data: data.join('\n'), id: this.#id } : undefined;
    }
    if (line.startsWith(':')) return undefined;
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#event = value;
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
    return undefined;
  }
}

export interface StreamHandlers {
  onEvent(event: SseEvent): void;
  /** The stream is open (again): anything listed before may be out of date. */
  onOpen?(): void;
  /** The stream broke; `retryMs` is the wait before the next try. */
  onLost?(error: unknown, retryMs: number): void;
}

/** The server sends a comment every 15 s; three missed ones mean a dead connection. */
const SILENCE_MS = 45_000;

/**
 * Keeps an event stream open until the returned function is called. It uses
 * `fetch`, so that a refusal arrives as a problem document; after 401 and 403
 * it stops, as trying again can not help.
 */
export function openEvents(path: string, handlers: StreamHandlers): () => void {
  const stopped = new AbortController();
  void (async () => {
    let attempt = 0;
    while (!stopped.signal.aborted) {
      const connection = new AbortController();
      const stop = () => connection.abort();
      stopped.signal.addEventListener('abort', stop);
      try {
        const response = await send(path, {
          headers: { accept: 'text/event-stream' },
          signal: connection.signal,
        });
        attempt = 0;
        handlers.onOpen?.();
        await readEvents(response, handlers.onEvent, stop);
      } catch (error) {
        if (stopped.signal.aborted) return;
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return;
      } finally {
        stopped.signal.removeEventListener('abort', stop);
        connection.abort();
      }
      if (stopped.signal.aborted) return;
      const wait = backoffMs(attempt++);
      handlers.onLost?.(undefined, wait);
      await pause(wait, stopped.signal);
    }
  })();
  return () => stopped.abort();
}

async function readEvents(
  response: Response,
  onEvent: (event: SseEvent) => void,
  onSilence: () => void,
): Promise<void> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  const parser = new SseParser();
  let timer = setTimeout(onSilence, SILENCE_MS);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(onSilence, SILENCE_MS);
      for (const event of parser.feed(value)) onEvent(event);
    }
  } finally {
    clearTimeout(timer);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      removeEventListener('online', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    addEventListener('online', done);
  });
}
