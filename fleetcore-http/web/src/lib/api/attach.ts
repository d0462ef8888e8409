/** Frames of the WebSocket subprotocol `fleetcore.v1`: one byte kind, then the payload. */
import type { AttachState, Channel, ExitEvent, Problem, SignalName } from './types';

export const SUBPROTOCOL = 'fleetcore.v1';

const CHANNELS: readonly Channel[] = ['stdout', 'stderr', 'pty', 'log'];

export type ServerFrame =
  | { kind: 'output'; offset: number; channel: Channel; bytes: Uint8Array }
  | { kind: 'gap'; from: number; to: number }
  | { kind: 'exit'; exit: ExitEvent }
  | { kind: 'state'; state: AttachState }
  | { kind: 'pong'; payload: Uint8Array }
  | { kind: 'error'; problem: Problem };

/** A frame that breaks the protocol; the connection is not worth keeping. */
export class FrameError extends Error {}

function need(view: DataView, length: number, what: string): void {
  if (view.byteLength < length) throw new FrameError(`${what} frame of ${view.byteLength} bytes`);
}

/** Offsets stay below 2^53: a journal would need centuries to pass that. */
const u64 = (view: DataView, at: number): number => Number(view.getBigUint64(at));

function json<T>(bytes: Uint8Array, what: string): T {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as T;
  } catch {
    throw new FrameError(`${what} frame is not JSON`);
  }
}

/** Decodes one message of the server; `undefined` for kinds this client does not know. */
export function decodeFrame(buffer: ArrayBuffer): ServerFrame | undefined {
  const view = new DataView(buffer);
  need(view, 1, 'empty');
  const rest = new Uint8Array(buffer, 1);
  switch (view.getUint8(0)) {
    case 0x01: {
      need(view, 10, 'output');
      const channel = CHANNELS[view.getUint8(9)];
      if (!channel) throw new FrameError(`channel ${view.getUint8(9)}`);
      return { kind: 'output', offset: u64(view, 1), channel, bytes: new Uint8Array(buffer, 10) };
    }
    case 0x02:
      need(view, 17, 'gap');
      return { kind: 'gap', from: u64(view, 1), to: u64(view, 9) };
    case 0x03:
      return { kind: 'exit', exit: json<ExitEvent>(rest, 'exit') };
    case 0x04:
      return { kind: 'state', state: json<AttachState>(rest, 'state') };
    case 0x05:
      return { kind: 'pong', payload: rest };
    case 0x06:
      return { kind: 'error', problem: json<Problem>(rest, 'error') };
    default:
      return undefined;
  }
}

function frame(kind: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(1 + payload.length);
  out[0] = kind;
  out.set(payload, 1);
  return out;
}

export const encodeInput = (bytes: Uint8Array) => frame(0x01, bytes);

export function encodeResize(cols: number, rows: number) {
  const payload = new DataView(new ArrayBuffer(4));
  payload.setUint16(0, cols);
  payload.setUint16(2, rows);
  return frame(0x02, new Uint8Array(payload.buffer));
}

export function encodeAck(offset: number) {
  const payload = new DataView(new ArrayBuffer(8));
  payload.setBigUint64(0, BigInt(offset));
  return frame(0x03, new Uint8Array(payload.buffer));
}

export const encodeCloseStdin = () => frame(0x04, new Uint8Array());
export const encodePing = (payload: Uint8Array = new Uint8Array()) => frame(0x05, payload);
export const encodeSignal = (signal: SignalName) => frame(0x06, new TextEncoder().encode(signal));
