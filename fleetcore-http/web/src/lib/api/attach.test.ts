import { describe, expect, it } from 'vitest';
import { decodeFrame, encodeAck, encodeCloseStdin, encodeInput, encodePing, encodeResize, encodeSignal, FrameError } from './attach';

const buffer = (...bytes: number[]) => new Uint8Array(bytes).buffer;
const jsonFrame = (kind: number, value: unknown) =>
  buffer(kind, ...new TextEncoder().encode(JSON.stringify(value)));

describe('decodeFrame', () => {
  it('reads output with a 64-bit offset', () => {
    const frame = decodeFrame(buffer(1, 0, 0, 0, 1, 0, 0, 0, 5, 2, 104, 105));
    expect(frame).toEqual({ kind: 'output', offset: 2 ** 32 + 5, channel: 'pty', bytes: new Uint8Array([104, 105]) });
  });

  it('reads a gap', () => {
    expect(decodeFrame(buffer(2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0))).toEqual({ kind: 'gap', from: 1, to: 256 });
  });

  it('reads the JSON frames', () => {
    expect(decodeFrame(jsonFrame(3, { code: 3, signal: null }))).toEqual({ kind: 'exit', exit: { code: 3, signal: null } });
    expect(decodeFrame(jsonFrame(4, { cwd: '/ä', busy: true }))).toEqual({ kind: 'state', state: { cwd: '/ä', busy: true } });
    expect(decodeFrame(jsonFrame(6, { title: 'x', status: 409, code: 'busy' }))).toMatchObject({ kind: 'error', problem: { code: 'busy' } });
  });

  it('skips kinds of a later protocol', () => {
    expect(decodeFrame(buffer(0x7f, 1, 2))).toBeUndefined();
  });

  it.each([
    ['nothing', buffer()],
    ['an output frame without its channel', buffer(1, 0, 0, 0, 0, 0, 0, 0, 0)],
    ['an unknown channel', buffer(1, 0, 0, 0, 0, 0, 0, 0, 0, 9)],
    ['half a gap', buffer(2, 0, 0)],
    ['an exit that is not JSON', buffer(3, 123)],
  ])('refuses %s', (_what, frame) => {
    expect(() => decodeFrame(frame)).toThrow(FrameError);
  });
});

describe('encoding', () => {
  it('writes every kind as the protocol says', () => {
    expect([...encodeInput(new Uint8Array([97]))]).toEqual([1, 97]);
    expect([...encodeResize(300, 24)]).toEqual([2, 1, 44, 0, 24]);
    expect([...encodeAck(2 ** 32 + 1)]).toEqual([3, 0, 0, 0, 1, 0, 0, 0, 1]);
    expect([...encodeCloseStdin()]).toEqual([4]);
    expect([...encodePing(new Uint8Array([7]))]).toEqual([5, 7]);
    expect(new TextDecoder().decode(encodeSignal('interrupt'))).toBe('\x06interrupt');
  });
});
