#!/usr/bin/env node
// A stand-in for the fleetcore server, for looking at the screens and for trying
// the end-to-end tests while the real one is not built. Development only: no
// security, no limits, nothing kept. Takes the command line of `fleetcore serve`.
import { execFile, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { WebSocketServer } from 'ws';

const option = (name, fallback) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const [listenHost, listenPort] = option('--listen', '127.0.0.1:7070').split(':');
const dist = path.join(import.meta.dirname, '..', 'dist');
const password = process.env.FLEETCORE_ADMIN_PASSWORD ?? 'admin';
const CSP = "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'";

const logins = new Set();
const commands = new Map();
const sessions = new Map();
const tokens = new Map();
const audit = [];
const listeners = new Set();
const loads = { local: [], 'multipass/dev1': [] };

class Problem extends Error {
  constructor(status, code, detail, context) {
    super(detail);
    this.body = { type: 'about:blank', title: http.STATUS_CODES[status], status, code, detail, context, retry_after_ms: null };
  }
}
const now = () => new Date().toISOString();
const note = (action, target, outcome, detail) => audit.push({ seq: audit.length + 1, at: now(), actor: 'admin', action, target, outcome, detail });
const publish = (event, data) => {
  for (const listener of listeners) listener(event, data);
};

// ---- output with offsets, readable by any number of views ----
class Journal {
  chunks = [];
  end = 0;
  views = new Set();
  started = Date.now();
  push(channel, bytes) {
    this.chunks.push({ offset: this.end, channel, bytes, at: (Date.now() - this.started) / 1000 });
    this.end += bytes.length;
    for (const view of this.views) view();
  }
  bytes() {
    return Buffer.concat(this.chunks.map((it) => it.bytes));
  }
  cast(size) {
    const lines = this.chunks.map((it) => JSON.stringify([it.at, 'o', it.bytes.toString()]));
    return `${[JSON.stringify({ version: 2, width: size?.cols ?? 80, height: size?.rows ?? 24 }), ...lines].join('\n')}\n`;
  }
}

const publicCommand = ({ journal, child, attached, ...rest }) => ({ ...rest, output_bytes: journal.end });
const publicSession = ({ journal, child, attached, ...rest }) => ({ ...rest, output_bytes: journal.end, viewers: attached.size });

function inPty(line, size) {
  return spawn('script', ['-qfec', `stty cols ${size.cols} rows ${size.rows}; ${line}`, '/dev/null'], {
    cwd: os.tmpdir(), env: { ...process.env, TERM: 'xterm-256color', SHELL: '/bin/bash' }, detached: true,
  });
}

function createCommand(spec) {
  const old = commands.get(spec.id);
  if (old) return old;
  if (!spec.argv === !spec.shell) throw new Problem(400, 'invalid_input', 'give exactly one of argv and shell', { field: 'argv' });
  if (spec.argv?.[0].includes('/') && !fs.existsSync(spec.argv[0])) throw new Problem(404, 'not_found', `no program ${spec.argv[0]}`, { field: 'argv' });
  const display = spec.shell ?? spec.argv.join(' ');
  const it = {
    id: spec.id ?? randomUUID(), target: spec.target, argv: spec.argv ?? null, shell: spec.shell ?? null, display, cwd: spec.cwd ?? null,
    pty: spec.pty ?? null, actor: 'admin', labels: {}, state: 'running', exit: null, error: null, created_at: now(), started_at: now(),
    ended_at: null, duration_ms: null, journal: new Journal(), attached: new Set(),
  };
  const started = performance.now();
  const options = { cwd: spec.cwd ?? os.tmpdir(), env: { ...process.env, ...spec.env }, detached: true };
  it.child = spec.pty
    ? inPty(display, spec.pty)
    : spec.shell ? spawn('/bin/sh', ['-c', spec.shell], options) : spawn(spec.argv[0], spec.argv.slice(1), options);
  commands.set(it.id, it);
  let asked;
  const timer = spec.timeout_ms ? setTimeout(() => { asked = 'timed_out'; it.stop('SIGKILL'); }, spec.timeout_ms) : undefined;
  it.stop = (signal, why) => {
    asked = why ?? asked;
    try { process.kill(-it.child.pid, signal); } catch { /* It is gone. */ }
  };
  const done = (exit, state, error) => {
    if (it.exit || it.error) return;
    clearTimeout(timer);
    Object.assign(it, { exit, state, error: error ?? null, ended_at: now(), duration_ms: performance.now() - started });
    for (const view of it.journal.views) view();
    publish('command', publicCommand(it));
  };
  it.child.stdout.on('data', (bytes) => it.journal.push(spec.pty ? 2 : 0, bytes));
  it.child.stderr.on('data', (bytes) => it.journal.push(spec.pty ? 2 : 1, bytes));
  it.child.on('error', (error) => done(null, 'failed', error.message));
  it.child.on('close', (code, signal) => done(
    { code, signal: signal ? os.constants.signals[signal] : null, reason: asked ?? null, leaked: false },
    asked ? 'cancelled' : code === 0 ? 'succeeded' : 'failed',
  ));
  note('command.create', it.target, 'ok', { id: it.id, display });
  publish('command', publicCommand(it));
  return it;
}

function createSession(spec) {
  const it = {
    id: spec.id ?? randomUUID(), target: spec.target, shell: ['bash'], cwd: os.tmpdir(), cols: spec.cols, rows: spec.rows, busy: false, turns: 0,
    created_at: now(), active_at: now(), ended: null, labels: {}, journal: new Journal(), attached: new Set(),
  };
  it.child = inPty('exec bash', spec);
  it.child.stdout.on('data', (bytes) => {
    it.journal.push(2, bytes);
    // A real server knows by marks; here a prompt at the end must do.
    const busy = !/[$#] $/.test(bytes.toString());
    if (busy !== it.busy) {
      it.busy = busy;
      publish('session', publicSession(it));
    }
  });
  it.child.on('close', (code) => {
    it.ended = { code, signal: null, reason: null };
    sessions.delete(it.id);
    for (const view of it.journal.views) view();
    publish('session_closed', { id: it.id });
  });
  sessions.set(it.id, it);
  note('session.create', it.target, 'ok', { id: it.id });
  publish('session', publicSession(it));
  return it;
}

// ---- load numbers ----
const history = (at, i, busy) => ({
  at: new Date(at).toISOString(), cpu_percent: Math.min(100, busy + 14 * Math.sin(i / 9) + 6 * Math.sin(i / 2.3) + (i % 37 > 30 ? 35 : 0)),
  memory_used_bytes: (5.1 + 0.4 * Math.sin(i / 20)) * 2 ** 30, memory_total_bytes: 16 * 2 ** 30, swap_used_bytes: 0,
  load1: 0.8, load5: 0.62, load15: 0.5, disk_used_bytes: 171 * 2 ** 30, disk_total_bytes: 220 * 2 ** 30,
  net_rx_bytes_per_s: 48_000 + 9_000 * Math.sin(i), net_tx_bytes_per_s: 9_100,
});
let tick = 150;
for (let i = 0; i < tick; i++) {
  loads.local.push(history(Date.now() - (tick - i) * 2000, i, 24));
  loads['multipass/dev1'].push(history(Date.now() - (tick - i) * 2000, i + 50, 62));
}
setInterval(() => {
  tick += 1;
  for (const [target, list] of Object.entries(loads)) {
    const load = history(Date.now(), tick + (target === 'local' ? 0 : 50), target === 'local' ? 24 : 62);
    list.push(load);
    list.shift();
    publish('load', { target, load });
  }
}, 2000);

const targetOf = (name) => ({
  target: name, provider: name.split('/')[0], state: 'running', native_state: '', addresses: [name === 'local' ? '127.0.0.1' : '10.24.3.8'],
  labels: name === 'local' ? {} : { team: 'build' }, created_at: null, capabilities: { pty: true, stdin: true, actions: [] },
  host: { hostname: name === 'local' ? os.hostname() : 'dev1', os: 'Debian 12', kernel: os.release(), arch: 'x86_64', cpus: 2, memory_bytes: os.totalmem(), uptime_s: 93_211 },
  load: loads[name]?.at(-1) ?? null,
});

// ---- files ----
const fileInfo = (file) => {
  const stat = fs.lstatSync(file);
  const kind = stat.isDirectory() ? 'dir' : stat.isFile() ? 'file' : stat.isSymbolicLink() ? 'symlink' : 'other';
  return { path: file, kind, size: stat.size, mode: (stat.mode & 0o7777).toString(8).padStart(4, '0'), modified_at: stat.mtime.toISOString() };
};

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}
const known = (map, id) => map.get(id) ?? (() => { throw new Problem(404, 'not_found', `${id} is not known here`); })();
const loginOf = (request) => /fleetcore_login=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
const loggedIn = (request) => logins.has(loginOf(request))
  || [...tokens.values()].some((it) => request.headers.authorization === `Bearer ${secretOf(it)}`);
const secretOf = (token) => `fct_${createHash('sha256').update(token.id).digest('base64url')}`;

async function files(request, url, rest) {
  const at = url.searchParams.get('path');
  if (rest === 'list') return { items: fs.readdirSync(at).map((name) => ({ ...fileInfo(path.join(at, name)), path: name })) };
  const input = rest ? JSON.parse(await body(request)) : {};
  if (rest === 'mkdir') return void fs.mkdirSync(input.path);
  if (rest === 'rename') return void fs.renameSync(input.from, input.to);
  if (request.method === 'PUT') {
    fs.writeFileSync(at, await body(request));
    return fileInfo(at);
  }
  if (request.method === 'DELETE') return void fs.rmSync(at, { recursive: url.searchParams.get('recursive') === 'true' });
  return fs.readFileSync(at);
}

async function api(request, response, url) {
  const parts = url.pathname.split('/').slice(3).map(decodeURIComponent);
  const [kind, id, action, rest] = parts;
  const { method } = request;
  const json = async () => JSON.parse((await body(request)) || '{}');
  const who = { user: 'admin', role: 'admin', scopes: ['read', 'run', 'files', 'machines', 'admin'], via: 'login', expires_at: null };
  if (kind === 'info') return { name: 'fleetcore', version: '0.1.0-mock', login_required: true };
  if (kind === 'login') {
    const input = await json();
    if (input.password !== password) throw new Problem(401, 'permission_denied', 'wrong user or password');
    const secret = createHash('sha256').update(randomUUID()).digest('hex');
    logins.add(secret);
    note('login', null, 'ok', null);
    response.setHeader('set-cookie', `fleetcore_login=${secret}; HttpOnly; SameSite=Strict; Path=/`);
    return who;
  }
  if (!loggedIn(request)) throw new Problem(401, 'unauthenticated', 'log in first');
  if (kind === 'logout') return void logins.delete(loginOf(request));
  if (kind === 'me') return who;
  if (kind === 'targets' && !id) return { items: Object.keys(loads).map(targetOf) };
  if (kind === 'targets' && action === 'load') return { items: loads[id] ?? [] };
  if (kind === 'targets' && action === 'files') return files(request, url, rest);
  if (kind === 'commands' && !id && method === 'POST') return publicCommand(createCommand(await json()));
  if (kind === 'commands' && !id) {
    const states = url.searchParams.getAll('state');
    const search = url.searchParams.get('search') ?? '';
    const target = url.searchParams.get('target');
    const items = [...commands.values()].reverse().map(publicCommand)
      .filter((it) => (!states.length || states.includes(it.state)) && it.display.includes(search) && (!target || it.target === target));
    return { items, next: null };
  }
  if (kind === 'commands') {
    const it = known(commands, id);
    if (action === 'cancel') it.stop('SIGTERM', 'requested');
    else if (action === 'signal') return void it.stop({ interrupt: 'SIGINT', terminate: 'SIGTERM', kill: 'SIGKILL' }[(await json()).signal] ?? 'SIGHUP');
    else if (action === 'output.cast') return Buffer.from(it.journal.cast(it.pty));
    else if (action === 'output') return it.journal.bytes();
    return publicCommand(it);
  }
  if (kind === 'sessions' && !id && method === 'POST') return publicSession(createSession(await json()));
  if (kind === 'sessions' && !id) return { items: [...sessions.values()].map(publicSession) };
  if (kind === 'sessions') {
    const it = known(sessions, id);
    if (method === 'DELETE') {
      process.kill(-it.child.pid, 'SIGKILL');
      sessions.delete(id);
    }
    return publicSession(it);
  }
  if (kind === 'tokens' && method === 'POST') {
    const token = { id: randomUUID(), user: 'admin', created_at: now(), last_used_at: null, expires_at: null, ...(await json()) };
    tokens.set(token.id, token);
    note('token.create', null, 'ok', { name: token.name });
    return { ...token, secret: secretOf(token) };
  }
  if (kind === 'tokens' && method === 'DELETE') return void tokens.delete(id);
  if (kind === 'tokens') return { items: [...tokens.values()] };
  if (kind === 'audit') return { items: [...audit].reverse(), next: null };
  throw new Problem(404, 'not_found', `no ${url.pathname}`);
}

function events(response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write(': hello\n\n');
  const listener = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  listeners.add(listener);
  response.on('close', () => listeners.delete(listener));
}

function asset(response, pathname) {
  const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
  let file = path.join(dist, pathname);
  if (!fs.existsSync(file) || fs.statSync(file).isDirectory()) file = path.join(dist, 'index.html');
  response.writeHead(200, { 'content-type': types[path.extname(file)] ?? 'application/octet-stream', 'content-security-policy': CSP });
  response.end(fs.readFileSync(file));
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://mock');
  try {
    if (!url.pathname.startsWith('/api/')) return asset(response, url.pathname);
    if (url.pathname === '/api/v1/events' && loggedIn(request)) return events(response);
    const answer = await api(request, response, url);
    if (answer === undefined) return response.writeHead(204).end();
    if (Buffer.isBuffer(answer)) return response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(answer);
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(error.code === 'ENOENT' ? 404 : 500, error.code ?? 'internal', error.message);
    response.writeHead(problem.body.status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem.body));
  }
});

// ---- attach ----
const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'fleetcore.v1' });
server.on('upgrade', (request, socket, head) => {
  const url = new URL(request.url, 'http://mock');
  const [, , , kind, id] = url.pathname.split('/');
  const it = { commands, sessions }[kind]?.get(decodeURIComponent(id ?? ''));
  if (!it || !loggedIn(request)) return socket.end(`HTTP/1.1 ${it ? 401 : 404} no\r\n\r\n`);
  sockets.handleUpgrade(request, socket, head, (ws) => attach(ws, it, url));
});

function attach(ws, it, url) {
  const window = Number(url.searchParams.get('window'));
  let sent = Number(url.searchParams.get('from'));
  let acked = sent;
  const view = () => {
    for (const { offset, channel, bytes } of it.journal.chunks) {
      if (offset + bytes.length <= sent) continue;
      if (sent - acked >= window) return;
      const skip = Math.max(0, sent - offset);
      const head = Buffer.alloc(10);
      head[0] = 1;
      head.writeBigUInt64BE(BigInt(offset + skip), 1);
      head[9] = channel;
      ws.send(Buffer.concat([head, bytes.subarray(skip)]));
      sent = offset + bytes.length;
    }
    const exit = it.exit ?? it.ended;
    if (exit) {
      ws.send(Buffer.concat([Buffer.from([3]), Buffer.from(JSON.stringify({ ...exit, state: it.state }))]));
      ws.close(1000);
    }
  };
  it.attached.add(view);
  it.journal.views.add(view);
  ws.on('close', () => {
    it.attached.delete(view);
    it.journal.views.delete(view);
  });
  ws.on('message', (data) => {
    if (data[0] === 1) it.child.stdin.write(data.subarray(1));
    else if (data[0] === 2) {
      const [cols, rows] = [data.readUInt16BE(1), data.readUInt16BE(3)];
      execFile('ps', ['-o', 'tty=', '--ppid', String(it.child.pid)], (_, tty) => execFile('stty', ['-F', `/dev/${tty?.trim()}`, 'cols', cols, 'rows', rows], () => {}));
    } else if (data[0] === 3) {
      acked = Number(data.readBigUInt64BE(1));
      view();
    } else if (data[0] === 5) ws.send(Buffer.concat([Buffer.from([5]), data.subarray(1)]));
  });
  if (it.cwd) ws.send(Buffer.concat([Buffer.from([4]), Buffer.from(JSON.stringify({ cwd: it.cwd, busy: it.busy }))]));
  view();
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    for (const it of [...sessions.values(), ...commands.values()]) {
      try { process.kill(-it.child.pid, 'SIGKILL'); } catch { /* It is gone. */ }
    }
    process.exit(0);
  });
}
server.listen(Number(listenPort), listenHost, () => console.log(`http://${listenHost}:${server.address().port}`));
