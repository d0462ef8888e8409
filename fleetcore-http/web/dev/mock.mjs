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
const loads = { local: [], 'office-1': [], 'office-2': [], 'sandbox/dev1': [] };
const BUSY = { local: 24, 'office-1': 48, 'office-2': 9, 'sandbox/dev1': 62 };

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

const publicCommand = ({ journal, child, attached, stop, end, say, onend, ...rest }) => ({ ...rest, output_bytes: journal.end });
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
    pty: spec.pty ?? null, actor: 'admin', labels: spec.labels ?? {}, state: 'running', exit: null, error: null, created_at: now(), started_at: now(),
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
    it.onend?.();
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
  for (const [name, list] of Object.entries(loads)) list.push(history(Date.now() - (tick - i) * 2000, i + BUSY[name], BUSY[name]));
}
setInterval(() => {
  tick += 1;
  for (const [target, list] of Object.entries(loads)) {
    const load = history(Date.now(), tick + BUSY[target], BUSY[target]);
    list.push(load);
    list.shift();
    publish('load', { target, load });
  }
}, 2000);

// ---- machines, agents, fan-out: as much as their screens need ----
const q = (name, scope, about, args = []) => ({ name, about, scope, changes: false, destroys: false, arguments: args });
const a = (name, scope, about, args = [], destroys = false) => ({ name, about, scope, changes: true, destroys, arguments: args });
const arg = (name, kind, required, about) => ({ name, kind, required, about });
const lifecycle = { create: true, start: true, stop: true, stop_with_suspend: false, delete: true, delete_is_soft: false };
const providers = [
  { name: 'sandbox', agent: null, capabilities: lifecycle, actions: [], available: true, reason: null },
  {
    name: 'multipass', agent: 'office-1', capabilities: { ...lifecycle, stop_with_suspend: true, delete_is_soft: true }, available: true, reason: null,
    actions: [
      q('details', 'either', 'Load, memory, disk, mounts and image'), q('snapshots', 'either', 'Lists snapshots'),
      q('find', 'provider', 'Lists images to launch from', [arg('query', 'text', false, 'image, alias or remote to look for')]),
      a('recover', 'machine', 'Takes a deleted machine back'),
      a('snapshot', 'machine', 'Takes a snapshot of a stopped machine', [arg('name', 'text', false, 'name of the snapshot'), arg('comment', 'text', false, 'comment')]),
      a('restore', 'machine', 'Puts a stopped machine back into the state of a snapshot', [arg('snapshot', 'text', true, 'name of the snapshot'), arg('destructive', 'flag', false, 'throw the current state away')], true),
      a('delete_snapshot', 'machine', 'Removes a snapshot for good', [arg('snapshot', 'text', true, 'name of the snapshot')], true),
      a('set_limits', 'machine', 'Changes what a stopped machine may use', [arg('cpus', 'integer', false, 'number of processors'), arg('memory_bytes', 'integer', false, 'memory in bytes')]),
      a('mount', 'machine', 'Shows a directory of the host on the machine', [arg('source', 'text', true, 'directory of the host'), arg('uid_maps', 'list', false, 'HOST:GUEST user ids')]),
    ],
  },
  { name: 'multipass', agent: null, capabilities: lifecycle, actions: [], available: false, reason: 'the program multipass is not installed' },
];
const machine = (target, state, more = {}) => {
  const parts = target.split('/');
  return { target, provider: parts.at(-2), agent: parts.length > 2 ? parts[0] : null, name: parts.at(-1), state, native_state: state, addresses: [], labels: {}, created_at: now(), ...more };
};
const machines = new Map([
  machine('sandbox/dev1', 'running', { labels: { role: 'web', team: 'build' } }), machine('sandbox/dev2', 'stopped', { labels: { role: 'web' } }),
  machine('office-1/multipass/builder', 'running', { addresses: ['10.24.3.8', 'fd42::8'], labels: { role: 'ci' } }),
  machine('office-1/multipass/old', 'suspended'), machine('office-1/multipass/gone', 'deleted'),
].map((it) => [it.target, it]));
const snapshots = [{ machine: 'builder', name: 'snapshot1', comment: 'before the upgrade', created_at: now() }];
const agents = new Map(['office-1', 'office-2', 'attic'].map((id, i) => [id, {
  id, online: id !== 'attic', connected: id !== 'attic', version: i === 2 ? '0.0.9' : '0.1.0-mock', labels: { site: id.split('-')[0] }, last_seen: new Date(Date.now() - i * 3_400_000).toISOString(),
  joined_at: now(), invited_by: 'admin', running: i, host: { hostname: `${id}.lan`, os: 'Debian 12', kernel: '6', arch: 'x86_64', cpus: 2, memory_bytes: 2 ** 34, uptime_s: 1 },
}]));
const users = new Map([['admin', { name: 'admin', role: 'admin', disabled: false, created_at: now() }]]);

/** A command that only waits and says what it does. */
function work(target, name, lines, done, id = randomUUID(), labels = {}) {
  const it = {
    id, target, argv: null, shell: null, display: name, cwd: null, pty: null, actor: 'admin', labels, state: 'running', exit: null, error: null,
    created_at: now(), started_at: now(), ended_at: null, duration_ms: null, journal: new Journal(), attached: new Set(), child: { stdin: { write() {} } },
  };
  const started = performance.now();
  commands.set(id, it);
  it.end = (code) => {
    if (it.exit) return;
    Object.assign(it, { exit: { code, signal: null, reason: code === null ? 'requested' : null, leaked: false }, state: code === 0 ? 'succeeded' : code === null ? 'cancelled' : 'failed', ended_at: now(), duration_ms: performance.now() - started });
    for (const view of it.journal.views) view();
    publish('command', publicCommand(it));
  };
  it.stop = () => it.end(null);
  it.say = (line) => it.journal.push(3, Buffer.from(`${line}\n`));
  publish('command', publicCommand(it));
  if (lines) {
    lines.forEach((line, i) => setTimeout(() => it.exit ?? it.say(line), 300 * i));
    setTimeout(() => { if (!it.exit) { done?.(); it.end(0); } }, 300 * lines.length);
  }
  return it;
}
const setMachine = (it, state) => {
  Object.assign(it, { state, native_state: state });
  publish('machine', it);
};

function create(spec) {
  const target = [spec.agent, spec.provider, spec.name].filter(Boolean).join('/');
  if (machines.has(target)) throw new Problem(409, 'already_exists', `${target} is there already`, { field: 'name' });
  const it = machine(target, 'pending', { labels: spec.labels ?? {} });
  machines.set(target, it);
  publish('machine', it);
  note('machine.create', target, 'ok', null);
  return work(target, 'create', ['Preparing the directory tree', 'Starting the system', 'Waiting until it answers'], () => setMachine(it, 'running'), spec.id);
}

function lifecycleOf(target, action, input) {
  const it = known(machines, target);
  note(`machine.${action}`, target, 'ok', null);
  if (action === 'start') return work(target, 'start', ['Starting'], () => setMachine(it, 'running'));
  if (action === 'stop') return work(target, 'stop', ['Stopping'], () => setMachine(it, input.mode === 'suspend' ? 'suspended' : 'stopped'));
  return work(target, 'delete', ['Deleting'], () => {
    machines.delete(target);
    publish('machine', { target, gone: true });
  });
}

function act(target, name) {
  if (name === 'snapshots') return { result: snapshots.filter((it) => target.endsWith(it.machine)) };
  if (name === 'find') return { result: [{ image: '24.04', aliases: ['noble', 'lts'], os: 'Ubuntu', size_bytes: 623_000_000 }, { image: '22.04', aliases: ['jammy'], os: 'Ubuntu', size_bytes: 580_000_000 }] };
  if (name === 'details') return { result: { image: 'Ubuntu 24.04 LTS', cpus: 2, memory_used_bytes: 812_000_000, mounts: {} } };
  if (name === 'snapshot') snapshots.push({ machine: target.split('/').at(-1), name: `snapshot${snapshots.length + 1}`, comment: '', created_at: now() });
  return work(target, name, ['Working', 'Done'], null);
}

function fanout(spec) {
  const matches = (name) => spec.targets.some((it) => new RegExp(`^${it.replaceAll('**', '.+').replaceAll('*', '[^/]*')}$`).test(name));
  const hit = targetNames().filter(matches);
  const parent = work('local', `fan-out: ${spec.command.shell ?? spec.command.argv.join(' ')}`, null, null, spec.id, { 'fleetcore/fanout': 'parent' });
  const left = new Set(hit);
  let failed = 0;
  for (const target of hit) {
    const child = createCommand({ ...spec.command, target, labels: { 'fleetcore/parent': parent.id } });
    child.onend = () => {
      parent.say(JSON.stringify({ target, command: child.id, state: child.state, exit: child.exit }));
      left.delete(target);
      if (child.state !== 'succeeded') failed += 1;
      if (left.size === 0) parent.end(failed ? 1 : 0);
    };
  }
  if (hit.length === 0) parent.end(1);
  return parent;
}

function metrics(url) {
  const [from, to] = ['from', 'to'].map((it) => Date.parse(url.searchParams.get(it)) / 1000);
  const step = Number(url.searchParams.get('step'));
  const line = (value) => Array.from({ length: Math.floor((to - from) / step) }, (_, i) => [from + i * step, value(i)]);
  return {
    series: {
      cpu: line((i) => 30 + 20 * Math.sin(i / 15) + (i % 29)), memory: line((i) => (5 + 0.6 * Math.sin(i / 40)) * 2 ** 30), swap: line(() => 2 ** 28), load1: line((i) => 1 + Math.sin(i / 20)),
      disk: line((i) => (170 + i / 100) * 2 ** 30), net_rx: line((i) => 90_000 + 60_000 * Math.sin(i / 9)), net_tx: line((i) => 20_000 + 9_000 * Math.sin(i / 7)),
    },
    totals: { memory_bytes: 2 ** 34, swap_bytes: 2 ** 31, disk_bytes: 220 * 2 ** 30 },
  };
}

const targetNames = () => ['local', ...[...agents.values()].filter((it) => it.online).map((it) => it.id), ...[...machines.values()].filter((it) => it.state === 'running').map((it) => it.target)];
const targetOf = (name) => ({
  target: name, provider: machines.get(name)?.provider ?? (name === 'local' ? 'local' : 'agent'), state: 'running', native_state: '', addresses: machines.get(name)?.addresses ?? (name === 'local' ? ['127.0.0.1'] : ['10.24.3.8']),
  labels: machines.get(name)?.labels ?? agents.get(name)?.labels ?? {}, created_at: null, capabilities: { pty: true, stdin: true, actions: [] },
  host: machines.has(name) ? null : { hostname: name === 'local' ? os.hostname() : `${name}.lan`, os: 'Debian 12', kernel: os.release(), arch: 'x86_64', cpus: 2, memory_bytes: os.totalmem(), uptime_s: 93_211 },
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
  if (kind === 'targets' && !id) return { items: targetNames().map(targetOf) };
  if (kind === 'providers' && !id) return { items: providers };
  if (kind === 'providers') return act(id, rest);
  if (kind === 'machines' && method === 'POST') return publicCommand(create(await json()));
  if (kind === 'machines') return { items: [...machines.values()], errors: [{ provider: 'multipass', agent: 'office-2', problem: { title: 'The daemon does not answer', code: 'unreachable' } }] };
  if (kind === 'targets' && ['start', 'stop', 'delete'].includes(action)) return publicCommand(lifecycleOf(id, action, await json()));
  if (kind === 'targets' && action === 'actions') {
    const answer = act(id, rest);
    return 'result' in answer ? answer : publicCommand(answer);
  }
  if (kind === 'targets' && action === 'metrics') return metrics(url);
  if (kind === 'fanout') return publicCommand(fanout(await json()));
  if (kind === 'agents' && id === 'join-codes') {
    const { expires_in_s } = await json();
    const code = 'K7QM-2XHD-9RTF';
    return { code, expires_at: new Date(Date.now() + expires_in_s * 1000).toISOString(), command: `fleetcore agent --server http://${request.headers.host} --join ${code}` };
  }
  if (kind === 'agents' && action === 'metrics') return metrics(url);
  if (kind === 'agents' && method === 'DELETE') {
    agents.delete(id);
    publish('agent_removed', { id });
    return undefined;
  }
  if (kind === 'agents') return { items: [...agents.values()] };
  if (kind === 'users' && method === 'POST') {
    const { password: _, ...user } = await json();
    users.set(user.name, { ...user, disabled: false, created_at: now() });
    return users.get(user.name);
  }
  if (kind === 'users' && method === 'PATCH') {
    const { password: _, ...change } = await json();
    return Object.assign(known(users, id), change);
  }
  if (kind === 'users' && method === 'DELETE') return void users.delete(id);
  if (kind === 'users') return { items: [...users.values()] };
  if (kind === 'targets' && action === 'load') return { items: loads[id] ?? [] };
  if (kind === 'targets' && action === 'files') return files(request, url, rest);
  if (kind === 'commands' && !id && method === 'POST') return publicCommand(createCommand(await json()));
  if (kind === 'commands' && !id) {
    const states = url.searchParams.getAll('state');
    const search = url.searchParams.get('search') ?? '';
    const target = url.searchParams.get('target');
    const [label, value] = (url.searchParams.get('label') ?? '').split('=');
    const items = [...commands.values()].reverse().map(publicCommand)
      .filter((it) => (!states.length || states.includes(it.state)) && it.display.includes(search) && (!target || it.target === target) && (!label || it.labels[label] === value))
      .slice(0, Number(url.searchParams.get('limit') ?? 100));
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

function outputEvents(response, it) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  let sent = 0;
  const view = () => {
    for (; sent < it.journal.chunks.length; sent++) {
      const { offset, bytes } = it.journal.chunks[sent];
      response.write(`event: output\nid: ${offset + bytes.length}\ndata: ${JSON.stringify({ offset, channel: 'log', text: bytes.toString() })}\n\n`);
    }
    if (it.exit) response.end(`event: exit\ndata: ${JSON.stringify({ ...it.exit, state: it.state })}\n\n`);
  };
  response.write(': hello\n\n');
  it.journal.views.add(view);
  response.on('close', () => it.journal.views.delete(view));
  view();
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
    if (/event-stream/.test(request.headers.accept ?? '') && loggedIn(request)) return outputEvents(response, known(commands, url.pathname.split('/')[4]));
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
      try { if (it.child.pid) process.kill(-it.child.pid, 'SIGKILL'); } catch { /* It is gone. */ }
    }
    process.exit(0);
  });
}
server.listen(Number(listenPort), listenHost, () => console.log(`http://${listenHost}:${server.address().port}`));
