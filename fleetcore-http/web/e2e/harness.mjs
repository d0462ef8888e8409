// Starts the server under test and a Chromium; both are ended by `close`.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';

export const PASSWORD = 'an end-to-end password';
export const chromium = process.env.CHROMIUM_BIN ?? '/usr/bin/chromium';
/** The stand-in of `dev/` keeps nothing, so what is about restarts is left out with it. */
export const isMock = /mock\.mjs$/.test(process.env.FLEETCORE_BIN ?? '');
export const server = process.env.FLEETCORE_BIN ?? '';

/** Why the tests can not run here, or undefined. */
export function missing() {
  if (!server) return 'FLEETCORE_BIN is not set: give the path of a built fleetcore binary';
  if (!fs.existsSync(server)) return `there is no server binary at ${server}`;
  if (!fs.existsSync(chromium)) return `there is no Chromium at ${chromium} (set CHROMIUM_BIN)`;
  return undefined;
}

/** More arguments for `serve`, e.g. `--ui-dir dist`. */
const more = (process.env.FLEETCORE_ARGS ?? '').split(' ').filter(Boolean);

/** Starts `serve` on `port` (0: any) and resolves with its address once it tells it. */
export async function startServer(dataDir, port = 0) {
  const child = spawn(server, ['serve', '--listen', `127.0.0.1:${port}`, '--data-dir', dataDir, ...more], {
    env: { ...process.env, FLEETCORE_ADMIN_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (text) => (log = (log + text).slice(-20_000)));
  const address = await new Promise((resolve, reject) => {
    readline.createInterface({ input: child.stdout }).once('line', (line) => resolve(/http:\/\/\S+/.exec(line)?.[0]));
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}\n${log}`)));
  });
  if (!address) throw new Error('the first line of the server names no address');
  return {
    address: address.replace(/\/$/, ''),
    log: () => log,
    async stop(signal = 'SIGTERM') {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill(signal);
      await ended;
    },
  };
}

export const tempDir = () => fs.mkdtempSync(path.join(os.tmpdir(), 'fleetcore-e2e-'));

/** Without WebGL terminals are drawn as text in the page, which tests can read. */
export async function startBrowser({ webgl = false } = {}) {
  const { chromium: driver } = await import('playwright-core');
  return driver.launch({
    executablePath: chromium,
    args: ['--no-sandbox', '--disable-dev-shm-usage', webgl ? '--enable-unsafe-swiftshader' : '--disable-3d-apis'],
  });
}
