import { backoffMs } from '../backoff';
import {
  decodeFrame, encodeAck, encodeInput, encodePing, encodeResize, FrameError, SUBPROTOCOL, type ServerFrame,
} from './attach';
import { withQuery } from './client';
import type { AttachState, Channel, ExitEvent, Problem } from './types';

export type Status =
  | { kind: 'connecting' }
  | { kind: 'open' }
  | { kind: 'waiting'; retryAt: number; reason: string }
  | { kind: 'ended' }
  | { kind: 'gone'; reason: string };

export interface AttachmentOptions {
  path: string;
  from?: number;
  input: boolean;
  /** `end` is the offset after `bytes`; pass it to `consumed` once they are drawn. */
  onOutput(bytes: Uint8Array, channel: Channel, end: number): void;
  onGap(from: number, to: number): void;
  onExit(exit: ExitEvent): void;
  onState(state: AttachState): void;
  onError(problem: Problem): void;
  onStatus(status: Status): void;
  /** Asked after a connection broke: a reason to give up, or undefined to try again. */
  probe(): Promise<string | undefined>;
  /** For tests. */
  socket?: (url: string, protocol: string) => WebSocket;
  random?: () => number;
}

/** What the server may send beyond the last ack; matches its default. */
const WINDOW = 256 * 1024;
/** Acks go out this often, so that a fast stream never has to wait for one. */
const ACK_EVERY = WINDOW / 4;
const PING_MS = 15_000;
/** Close codes of RFC 6455. */
const NORMAL = 1000;
const INTERNAL_ERROR = 1011;

/**
 * One view of a command or session: keeps a WebSocket to it, comes back after
 * a break with the last offset, and acknowledges what was drawn.
 */
export class Attachment {
  readonly #options: AttachmentOptions;
  #socket: WebSocket | undefined;
  #received: number;
  #consumed: number;
  #acked: number;
  #attempt = 0;
  #closed = false;
  #ended = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #pinger: ReturnType<typeof setInterval> | undefined;
  #heard = true;
  #size: { cols: number; rows: number } | undefined;
  readonly #wake = () => this.#reconnectNow();

  constructor(options: AttachmentOptions) {
    this.#options = options;
    this.#received = this.#consumed = this.#acked = options.from ?? 0;
    globalThis.addEventListener?.('online', this.#wake);
    this.#connect();
  }

  /** Tells that everything before `offset` was drawn, so more may come. */
  consumed(offset: number): void {
    this.#consumed = Math.max(this.#consumed, offset);
    const due = this.#consumed - this.#acked;
    // The tail of a burst is acknowledged at once, the middle in large steps.
    if (due >= ACK_EVERY || (due > 0 && this.#consumed === this.#received)) {
      if (this.#send(encodeAck(this.#consumed))) this.#acked = this.#consumed;
    }
  }

  /** False when there is no connection: typed input is never silently queued. */
  input(bytes: Uint8Array): boolean {
    return this.#send(encodeInput(bytes));
  }

  resize(cols: number, rows: number): void {
    this.#size = { cols, rows };
    // Who only looks on does not change the size for those who type.
    if (this.#options.input) this.#send(encodeResize(cols, rows));
  }

  /** Skips the wait before the next try. */
  reconnect(): void {
    this.#reconnectNow();
  }

  close(): void {
    this.#closed = true;
    globalThis.removeEventListener?.('online', this.#wake);
    this.#teardown();
  }

  #connect(): void {
    this.#options.onStatus({ kind: 'connecting' });
    const url = withQuery(this.#options.path, {
      from: this.#received,
      input: this.#options.input,
      window: WINDOW,
    });
    const make = this.#options.socket ?? ((to, protocol) => new WebSocket(to, protocol));
    const socket = make(url, SUBPROTOCOL);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    this.#acked = this.#received;
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      this.#heard = true;
      this.#options.onStatus({ kind: 'open' });
      if (this.#size) this.resize(this.#size.cols, this.#size.rows);
      this.#pinger = setInterval(() => this.#ping(), PING_MS);
    };
    socket.onmessage = (message) => {
      if (socket !== this.#socket || !(message.data instanceof ArrayBuffer)) return;
      this.#heard = true;
      try {
        const frame = decodeFrame(message.data);
        if (frame) this.#frame(frame);
      } catch (error) {
        if (!(error instanceof FrameError)) throw error;
        this.#broken(`protocol error: ${error.message}`);
      }
    };
    socket.onclose = (event) => {
      if (socket !== this.#socket) return;
      // Ended without an exit frame: nobody knows how, as with a command lost in a crash.
      if (event.code === NORMAL && !this.#ended && !this.#closed) return this.#finish({ kind: 'ended' });
      if (event.code === INTERNAL_ERROR) return this.#finish({ kind: 'gone', reason: event.reason || 'the server failed' });
      this.#broken(event.reason || 'connection lost');
    };
  }

  #frame(frame: ServerFrame): void {
    switch (frame.kind) {
      case 'output': {
        const end = frame.offset + frame.bytes.length;
        if (end <= this.#received) return;
        if (frame.offset > this.#received) this.#options.onGap(this.#received, frame.offset);
        const fresh = frame.bytes.subarray(Math.max(0, this.#received - frame.offset));
        this.#received = end;
        this.#attempt = 0;
        this.#options.onOutput(fresh, frame.channel, end);
        return;
      }
      case 'gap':
        if (frame.to <= this.#received) return;
        this.#options.onGap(Math.max(frame.from, this.#received), frame.to);
        this.#received = frame.to;
        this.consumed(frame.to);
        return;
      case 'exit':
        this.#ended = true;
        this.#options.onExit(frame.exit);
        this.#options.onStatus({ kind: 'ended' });
        return;
      case 'state':
        this.#options.onState(frame.state);
        return;
      case 'error':
        this.#options.onError(frame.problem);
        return;
      case 'pong':
        this.#attempt = 0;
        return;
    }
  }

  #finish(status: Status): void {
    this.#ended = true;
    this.#teardown();
    this.#options.onStatus(status);
  }

  #broken(reason: string): void {
    this.#teardown();
    if (this.#closed || this.#ended) return;
    const wait = backoffMs(this.#attempt++, this.#options.random);
    this.#options.onStatus({ kind: 'waiting', retryAt: Date.now() + wait, reason });
    this.#retry = setTimeout(() => this.#reconnectNow(), wait);
  }

  #reconnectNow(): void {
    if (this.#closed || this.#ended || this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#options.onStatus({ kind: 'connecting' });
    // A browser hides why an upgrade was refused, so a plain request asks first.
    void this.#options.probe().then((reason) => {
      if (this.#closed) return;
      if (reason === undefined) this.#connect();
      else {
        this.#finish({ kind: 'gone', reason });
      }
    });
  }

  #ping(): void {
    if (!this.#heard) return this.#broken('the server stopped answering');
    this.#heard = false;
    this.#send(encodePing());
  }

  #send(bytes: Uint8Array<ArrayBuffer>): boolean {
    // 1 = WebSocket.OPEN, spelled as a number so that tests need no global.
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(bytes);
    return true;
  }

  #teardown(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    clearInterval(this.#pinger);
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket && socket.readyState <= 1) socket.close(1000);
  }
}
