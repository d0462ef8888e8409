import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Attachment, type AttachmentOptions, type Status } from './attachment';

class FakeSocket {
  static made: FakeSocket[] = [];
  readyState = 0;
  binaryType = '';
  sent: number[][] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  readonly url: string;
  constructor(url: string) {
    this.url = url;
    FakeSocket.made.push(this);
  }
  send(bytes: Uint8Array) {
    this.sent.push([...bytes]);
  }
  close() {
    this.readyState = 3;
  }
  open() {
    this.readyState = 1;
    this.onopen?.();
  }
  receive(...bytes: number[]) {
    this.onmessage?.({ data: new Uint8Array(bytes).buffer });
  }
  drop(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code, reason: '' });
  }
}

const u64 = (n: number) => [...new Uint8Array(new BigUint64Array([BigInt(n)]).buffer)].reverse();
const output = (offset: number, text: string) => [1, ...u64(offset), 2, ...new TextEncoder().encode(text)];
const gap = (from: number, to: number) => [2, ...u64(from), ...u64(to)];
const ack = (offset: number) => [3, ...u64(offset)];

let log: string[];
let states: Status['kind'][];
let probe: () => Promise<string | undefined>;

function attach(more: Partial<AttachmentOptions> = {}) {
  const view: Attachment = new Attachment({
    path: '/api/v1/sessions/x/attach',
    input: true,
    onOutput(bytes, _channel, end) {
      log.push(new TextDecoder().decode(bytes));
      view.consumed(end);
    },
    onGap: (from, to) => log.push(`gap ${from}-${to}`),
    onExit: (exit) => log.push(`exit ${exit.code}`),
    onState: () => {},
    onError: (problem) => log.push(problem.code),
    onStatus: (status) => states.push(status.kind),
    probe: () => probe(),
    socket: (url) => new FakeSocket(url) as unknown as WebSocket,
    random: () => 1,
    ...more,
  });
  return view;
}
const socket = (index: number) => {
  const it = FakeSocket.made[index];
  if (!it) throw new Error(`no connection ${index}`);
  return it;
};

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.made = [];
  log = [];
  states = [];
  probe = () => Promise.resolve(undefined);
});
afterEach(() => vi.useRealTimers());

describe('Attachment', () => {
  it('acknowledges the end of a burst at once and long streams in steps', () => {
    const held: number[] = [];
    const view = attach({ onOutput: (_bytes, _channel, end) => held.push(end) });
    socket(0).open();
    const big = 'x'.repeat(50_000);
    for (let i = 0; i < 3; i++) socket(0).receive(...output(i * 50_000, big));
    expect(socket(0).sent).toEqual([]);
    view.consumed(50_000);
    expect(socket(0).sent).toEqual([]);
    view.consumed(100_000);
    expect(socket(0).sent).toEqual([ack(100_000)]);
    view.consumed(150_000);
    expect(socket(0).sent).toEqual([ack(100_000), ack(150_000)]);
    view.close();
  });

  it('comes back with the offset it had and drops what it has already', async () => {
    const view = attach();
    socket(0).open();
    socket(0).receive(...output(0, 'hello '));
    socket(0).drop();
    expect(states.at(-1)).toBe('waiting');
    expect(view.input(new Uint8Array([1]))).toBe(false);
    await vi.advanceTimersByTimeAsync(500);
    expect(socket(1).url).toContain('from=6');
    socket(1).open();
    socket(1).receive(...output(0, 'hello wor'));
    socket(1).receive(...output(9, 'ld'));
    expect(log.join('')).toBe('hello world');
    view.close();
  });

  it('tells gaps, stated or silent, and acknowledges past them', () => {
    const view = attach();
    socket(0).open();
    socket(0).receive(...gap(0, 100));
    socket(0).receive(...output(100, 'a'));
    socket(0).receive(...output(110, 'b'));
    expect(log).toEqual(['gap 0-100', 'a', 'gap 101-110', 'b']);
    expect(socket(0).sent.at(-1)).toEqual(ack(111));
    view.close();
  });

  it('waits longer after each failure', async () => {
    const view = attach();
    socket(0).drop();
    await vi.advanceTimersByTimeAsync(500);
    socket(1).drop();
    await vi.advanceTimersByTimeAsync(999);
    expect(FakeSocket.made).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1);
    expect(FakeSocket.made).toHaveLength(3);
    view.close();
  });

  it('does not come back after the exit', async () => {
    attach();
    socket(0).open();
    socket(0).receive(3, ...new TextEncoder().encode('{"code":0}'));
    socket(0).drop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.made).toHaveLength(1);
    expect(log).toEqual(['exit 0']);
    expect(states.at(-1)).toBe('ended');
  });

  it('gives up when the server says the thing is gone', async () => {
    probe = () => Promise.resolve('gone');
    attach();
    socket(0).drop();
    await vi.advanceTimersByTimeAsync(500);
    expect(FakeSocket.made).toHaveLength(1);
    expect(states.at(-1)).toBe('gone');
  });

  it('leaves a server that does not answer pings or breaks the protocol', async () => {
    const view = attach();
    socket(0).open();
    await vi.advanceTimersByTimeAsync(30_000);
    expect(states).toContain('waiting');
    await vi.advanceTimersByTimeAsync(500);
    socket(1).open();
    socket(1).receive(1, 2, 3);
    expect(states.at(-1)).toBe('waiting');
    view.close();
  });

  it('sends the size again to a new connection', async () => {
    const view = attach();
    view.resize(100, 30);
    socket(0).open();
    expect(socket(0).sent).toEqual([[2, 0, 100, 0, 30]]);
    view.close();
  });

  it.each([[1000, 'ended'], [1011, 'gone']])('takes close code %i as the end', async (code, status) => {
    attach();
    socket(0).open();
    socket(0).drop(code);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.made).toHaveLength(1);
    expect(states.at(-1)).toBe(status);
  });

  it('does not resize what it only looks at', () => {
    const view = attach({ input: false });
    socket(0).open();
    view.resize(10, 10);
    expect(socket(0).sent).toEqual([]);
    view.close();
  });

  it('makes no connection after close', async () => {
    const view = attach();
    socket(0).drop();
    view.close();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.made).toHaveLength(1);
  });
});
