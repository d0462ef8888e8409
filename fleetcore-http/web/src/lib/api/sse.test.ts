import { describe, expect, it } from 'vitest';
import { SseParser } from './sse';

describe('SseParser', () => {
  it('reads fields, comments and several data lines', () => {
    const events = new SseParser().feed(': hi\nid: 7\nevent: output\ndata: one\ndata: two\n\n');
    expect(events).toEqual([{ event: 'output', data: 'one\ntwo', id: '7' }]);
  });

  it('keeps the id, names the default event, drops events without data', () => {
    const events = new SseParser().feed('id: 1\n\ndata:x\n\nevent: y\n\ndata\n\n');
    expect(events).toEqual([
      { event: 'message', data: 'x', id: '1' },
      { event: 'message', data: '', id: '1' },
    ]);
  });

  it.each(['\n', '\r\n', '\r'])('gives the same for every way to cut the text, lines ended by %j', (eol) => {
    const text = ['\ufeffid: 3', 'event: load', 'data: {"a": "ä€"}', '', ': keep-alive', '', 'data: b', '', ''].join(eol);
    const whole = [{ event: 'load', data: '{"a": "ä€"}', id: '3' }, { event: 'message', data: 'b', id: '3' }];
    for (let cut = 0; cut <= text.length; cut++) {
      const parser = new SseParser();
      const events = [...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut)), ...parser.feed(eol === '\r' ? ':' : '')];
      expect(events).toEqual(whole);
    }
  });

  it('does not give an event before its blank line', () => {
    const parser = new SseParser();
    expect(parser.feed('data: a\n')).toEqual([]);
    expect(parser.feed('\n')).toHaveLength(1);
  });
});
