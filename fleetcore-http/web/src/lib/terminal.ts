/** Building xterm.js terminals: colours, add-ons, keys, downloads. */
import { FitAddon } from '@xterm/addon-fit';
import { SearchAddon } from '@xterm/addon-search';
import { SerializeAddon } from '@xterm/addon-serialize';
import { WebglAddon } from '@xterm/addon-webgl';
import { Terminal, type ITheme } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { load } from './storage';

const DARK: ITheme = {
  background: '#0f1419', foreground: '#d6dde4', cursor: '#5eead4', cursorAccent: '#0f1419',
  selectionBackground: '#2f4a5c', selectionInactiveBackground: '#26343f',
  black: '#1d252c', red: '#f2777a', green: '#8fd18b', yellow: '#e8c47c', blue: '#74a9f0',
  magenta: '#cf9bea', cyan: '#66cfd0', white: '#c9d3db', brightBlack: '#71808c', brightRed: '#ff9da0',
  brightGreen: '#b3e8af', brightYellow: '#f6dba1', brightBlue: '#a3c8fb', brightMagenta: '#e2c0f6',
  brightCyan: '#98e8e8', brightWhite: '#f4f7f9',
};

const LIGHT: ITheme = {
  background: '#ffffff', foreground: '#24303a', cursor: '#0f766e', cursorAccent: '#ffffff',
  selectionBackground: '#bfe3df', selectionInactiveBackground: '#dce6ea',
  black: '#24303a', red: '#b4232c', green: '#1f7a33', yellow: '#8a5d00', blue: '#1d5fbf',
  magenta: '#8b35ad', cyan: '#0b7379', white: '#66737e', brightBlack: '#55636f', brightRed: '#cf3038',
  brightGreen: '#2a9142', brightYellow: '#a06d00', brightBlue: '#2f74d8', brightMagenta: '#a24bc4',
  brightCyan: '#0f8a91', brightWhite: '#3c4852',
};

export interface Term {
  term: Terminal;
  fit: FitAddon;
  search: SearchAddon;
  serialize: SerializeAddon;
  setDark(dark: boolean): void;
  /** While searching, the selection (the match found) stands out from the other matches. */
  setSearching(searching: boolean): void;
  /** Only a visible terminal holds a WebGL context: browsers allow few. */
  setVisible(visible: boolean): void;
  /** While true, answers to queries in old output are not sent again. */
  muteReplies(mute: boolean): void;
  dispose(): void;
}

export function createTerm(
  host: HTMLElement,
  options: { dark: boolean; readOnly: boolean; convertEol: boolean; scrollback?: number },
): Term {
  const term = new Terminal({
    allowProposedApi: true,
    cursorBlink: !options.readOnly,
    cursorInactiveStyle: options.readOnly ? 'none' : 'outline',
    disableStdin: options.readOnly,
    convertEol: options.convertEol,
    fontFamily: 'ui-monospace, "Cascadia Mono", "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace',
    fontSize: load('font-size', 13),
    lineHeight: 1.15,
    macOptionIsMeta: true,
    minimumContrastRatio: 4.5,
    screenReaderMode: load('screen-reader', false),
    scrollback: options.scrollback ?? 10_000,
    theme: options.dark ? DARK : LIGHT,
  });
  const fit = new FitAddon();
  const search = new SearchAddon();
  const serialize = new SerializeAddon();
  term.loadAddon(fit);
  term.loadAddon(search);
  term.loadAddon(serialize);
  term.open(host);

  let webgl: WebglAddon | undefined;
  const dropWebgl = () => {
    webgl?.dispose();
    webgl = undefined;
  };
  let { dark } = options;
  let searching = false;
  const colour = () => {
    const theme = dark ? DARK : LIGHT;
    term.options.theme = searching ? { ...theme, selectionInactiveBackground: '#d9601a' } : theme;
  };
  let muted = false;
  muteQueries(term, () => muted);

  return {
    term, fit, search, serialize,
    setDark(next) {
      dark = next;
      colour();
    },
    setSearching(next) {
      searching = next;
      colour();
    },
    setVisible(visible) {
      if (!visible) return dropWebgl();
      if (webgl) return;
      try {
        webgl = new WebglAddon();
        webgl.onContextLoss(dropWebgl);
        term.loadAddon(webgl);
      } catch {
        webgl = undefined; // No WebGL here: the DOM renderer does it.
      }
    },
    muteReplies(mute) {
      muted = mute;
    },
    dispose() {
      dropWebgl();
      term.dispose();
    },
  };
}

/**
 * Programs ask terminals questions ("who are you", "where is the cursor"), and
 * xterm.js answers as if typed. When old output is drawn again after a reload
 * nobody waits for those answers, and the shell would read them as input.
 */
function muteQueries(term: Terminal, muted: () => boolean): void {
  const { parser } = term;
  for (const id of [
    { final: 'c' }, { prefix: '>', final: 'c' }, { prefix: '=', final: 'c' },
    { final: 'n' }, { prefix: '?', final: 'n' },
    { intermediates: '$', final: 'p' }, { prefix: '?', intermediates: '$', final: 'p' },
  ]) {
    parser.registerCsiHandler(id, muted);
  }
  parser.registerDcsHandler({ intermediates: '$', final: 'q' }, muted);
  for (const id of [4, 10, 11, 12]) {
    parser.registerOscHandler(id, (data) => muted() && data.includes('?'));
  }
}

/** All lines, scrollback first, joined where the terminal only wrapped them. */
export function plainText(term: Terminal): string {
  const buffer = term.buffer.active;
  const lines: string[] = [];
  for (let y = 0; y < buffer.length; y++) {
    const line = buffer.getLine(y);
    if (!line) continue;
    const text = line.translateToString(!buffer.getLine(y + 1)?.isWrapped);
    if (line.isWrapped && lines.length > 0) lines[lines.length - 1] += text;
    else lines.push(text);
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

export function saveFile(name: string, type: string, content: string): void {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
