import { describe, expect, it } from 'vitest';
import { parseCast, Player, skipIdle, type Cast } from './cast';

const TEXT = `{"version": 2, "width": 100, "height": 30}
[0.5, "o", "a"]
[0.6, "i", "ignored"]
[1.0, "r", "120x40"]
[10.0, "o", "b"]
`;

/** A clock that moves only when told, running what falls due. */
function host() {
  let now = 0;
  let due: { at: number; run: () => void }[] = [];
  const seen: string[] = [];
  const state = { position: 0, playing: false };
  return {
    seen, state,
    reset: (w: number, h: number) => void seen.push(`reset ${w}x${h}`),
    write: (data: string) => void seen.push(data),
    resize: (c: number, r: number) => void seen.push(`size ${c}x${r}`),
    progress(position: number, playing: boolean) {
      Object.assign(state, { position, playing });
    },
    now: () => now,
    later(run: () => void, ms: number) {
      const entry = { at: now + ms, run };
      due.push(entry);
      return () => void (due = due.filter((it) => it !== entry));
    },
    advance(ms: number) {
      const end = now + ms;
      for (;;) {
        due.sort((a, b) => a.at - b.at);
        const next = due[0];
        if (!next || next.at > end) break;
        due.shift();
        now = next.at;
        next.run();
      }
      now = end;
    },
  };
}

describe('parseCast', () => {
  it('reads header and events', () => {
    const cast = parseCast(TEXT);
    expect(cast).toMatchObject({ width: 100, height: 30, duration: 10 });
    expect(cast.events.map((it) => it.code)).toEqual(['o', 'r', 'o']);
  });
  it('takes a recording without events', () => {
    expect(parseCast('{"version":2,"width":80,"height":24}\n')).toMatchObject({ duration: 0, events: [] });
  });
  it.each(['', '{"version":1}', '{"version":2}\n[1]', '{"version":2}\nnope'])('refuses %j', (text) => {
    expect(() => parseCast(text)).toThrow();
  });
});

describe('skipIdle', () => {
  it('cuts long pauses, also the first, and keeps short ones', () => {
    const cut = skipIdle(parseCast(TEXT), 0.25);
    expect(cut.events.map((it) => it.at)).toEqual([0.25, 0.5, 0.75]);
    expect(cut.duration).toBe(0.75);
  });
});

describe('Player', () => {
  const cast: Cast = parseCast(TEXT);

  it('writes each event at its time', () => {
    const at = host();
    new Player(cast, at).play();
    at.advance(499);
    expect(at.seen).toEqual(['reset 100x30']);
    at.advance(30);
    expect(at.seen).toEqual(['reset 100x30', 'a']);
    at.advance(9_600);
    expect(at.seen).toEqual(['reset 100x30', 'a', 'size 120x40', 'b']);
    expect(at.state).toEqual({ position: 10, playing: false });
  });

  it('plays faster, also when told on the way', () => {
    const at = host();
    const player = new Player(cast, at);
    player.play();
    at.advance(1_000);
    player.setSpeed(4);
    at.advance(2_300);
    expect(at.seen.at(-1)).toBe('b');
    expect(player.playing).toBe(false);
  });

  it('holds still while paused and goes on from there', () => {
    const at = host();
    const player = new Player(cast, at);
    player.play();
    at.advance(600);
    player.pause();
    at.advance(60_000);
    expect(player.position).toBeCloseTo(0.6);
    expect(at.seen).toEqual(['reset 100x30', 'a']);
    player.play();
    at.advance(9_500);
    expect(at.seen.at(-1)).toBe('b');
  });

  it('draws anew when sought back and everything before when sought on', () => {
    const at = host();
    const player = new Player(cast, at);
    player.seek(5);
    expect(at.seen.slice(-3)).toEqual(['reset 100x30', 'a', 'size 120x40']);
    player.seek(0.1);
    expect(at.seen.at(-1)).toBe('reset 100x30');
    expect(player.position).toBe(0.1);
  });

  it('starts over after the end', () => {
    const at = host();
    const player = new Player(cast, at);
    player.seek(10);
    player.play();
    at.advance(600);
    expect(at.seen.slice(-2)).toEqual(['reset 100x30', 'a']);
  });

  it('changes to the cut recording without showing anything twice', () => {
    const at = host();
    const player = new Player(cast, at);
    player.play();
    at.advance(1_100);
    player.setCast(skipIdle(cast, 1));
    at.advance(1_100);
    expect(at.seen).toEqual(['reset 100x30', 'a', 'size 120x40', 'b']);
  });
});
