/** asciicast v2: one JSON header line, then one `[seconds, code, data]` per line. */
export interface CastEvent {
  /** Seconds since the start of the recording. */
  at: number;
  code: 'o' | 'r';
  data: string;
}

export interface Cast {
  width: number;
  height: number;
  duration: number;
  events: CastEvent[];
}

export function parseCast(text: string): Cast {
  const [first = '', ...lines] = text.split('\n');
  const header = JSON.parse(first) as { version?: unknown; width?: unknown; height?: unknown };
  if (header.version !== 2) throw new Error('not an asciicast v2 recording');
  const events: CastEvent[] = [];
  for (const line of lines) {
    if (line.trim() === '') continue;
    const [at, code, data] = JSON.parse(line) as [unknown, unknown, unknown];
    if (typeof at !== 'number' || typeof data !== 'string') throw new Error('broken asciicast line');
    if (code === 'o' || code === 'r') events.push({ at, code, data });
  }
  const side = (value: unknown, fallback: number) =>
    typeof value === 'number' && value >= 1 ? Math.min(value, 1000) : fallback;
  return {
    width: side(header.width, 80),
    height: side(header.height, 24),
    duration: events.at(-1)?.at ?? 0,
    events,
  };
}

/** The recording with every pause longer than `limit` seconds cut down to it. */
export function skipIdle(cast: Cast, limit: number): Cast {
  let last = 0;
  let cut = 0;
  const events = cast.events.map((event) => {
    cut += Math.max(0, event.at - last - limit);
    last = event.at;
    return { ...event, at: event.at - cut };
  });
  return { ...cast, events, duration: events.at(-1)?.at ?? 0 };
}

export interface PlayerHost {
  reset(width: number, height: number): void;
  write(data: string): void;
  resize(cols: number, rows: number): void;
  /** Called after every change of position or of being at play. */
  progress(position: number, playing: boolean): void;
  /** Milliseconds of a steady clock. */
  now(): number;
  later(run: () => void, ms: number): () => void;
}

/** Plays a recording into a terminal; times are seconds of the recording. */
export class Player {
  readonly #host: PlayerHost;
  #cast: Cast;
  #next = 0;
  #base = 0;
  #started: number | undefined;
  #speed = 1;
  #cancel: (() => void) | undefined;

  constructor(cast: Cast, host: PlayerHost) {
    this.#cast = cast;
    this.#host = host;
    host.reset(cast.width, cast.height);
  }

  get playing(): boolean {
    return this.#started !== undefined;
  }

  get position(): number {
    const ran = this.#started === undefined ? 0 : ((this.#host.now() - this.#started) / 1000) * this.#speed;
    return Math.min(this.#cast.duration, this.#base + ran);
  }

  play(): void {
    if (this.playing) return;
    if (this.#next >= this.#cast.events.length) this.#rewind();
    this.#started = this.#host.now();
    this.#step();
  }

  pause(): void {
    this.#base = this.position;
    this.#started = undefined;
    this.#cancel?.();
    this.#host.progress(this.#base, false);
  }

  setSpeed(speed: number): void {
    this.#rebase();
    this.#speed = speed;
    this.#reschedule();
  }

  /** Another cut of the same recording (with or without idle time). */
  setCast(cast: Cast): void {
    const done = this.#next;
    const into = cast.events[done - 1]?.at ?? 0;
    this.#rebase();
    this.#cast = cast;
    this.#base = into;
    this.#reschedule();
  }

  /** Jumps to `position`, drawing everything before it at once. */
  seek(position: number): void {
    const playing = this.playing;
    this.#cancel?.();
    this.#started = undefined;
    if (position < this.#base || this.#next === 0) this.#rewind();
    this.#base = Math.max(0, Math.min(position, this.#cast.duration));
    this.#emitUntil(this.#base);
    if (playing) {
      this.#started = this.#host.now();
      this.#step();
    } else {
      this.#host.progress(this.#base, false);
    }
  }

  stop(): void {
    this.#cancel?.();
    this.#started = undefined;
  }

  #rewind(): void {
    this.#next = 0;
    this.#base = 0;
    this.#host.reset(this.#cast.width, this.#cast.height);
  }

  #rebase(): void {
    this.#base = this.position;
    if (this.playing) this.#started = this.#host.now();
  }

  #reschedule(): void {
    this.#cancel?.();
    if (this.playing) this.#step();
    else this.#host.progress(this.#base, false);
  }

  #emitUntil(position: number): void {
    let text = '';
    for (; this.#next < this.#cast.events.length; this.#next++) {
      const event = this.#cast.events[this.#next];
      if (!event || event.at > position) break;
      if (event.code === 'o') {
        text += event.data;
        continue;
      }
      if (text) this.#host.write(text);
      text = '';
      const [cols, rows] = event.data.split('x').map(Number);
      if (cols && rows) this.#host.resize(cols, rows);
    }
    if (text) this.#host.write(text);
  }

  #step(): void {
    const position = this.position;
    this.#emitUntil(position);
    const next = this.#cast.events[this.#next];
    if (!next) {
      this.#base = this.#cast.duration;
      this.#started = undefined;
      this.#host.progress(this.#base, false);
      return;
    }
    this.#host.progress(position, true);
    // At least 8 ms, at most a quarter second so that the position bar moves.
    const wait = Math.min(250, Math.max(8, ((next.at - position) * 1000) / this.#speed));
    this.#cancel = this.#host.later(() => this.#step(), wait);
  }
}
