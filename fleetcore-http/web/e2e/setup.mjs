// What the browser tests share: a server, a flaky link to it, a Chromium, one login.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { startRelay } from './flaky-link.mjs';
import { PASSWORD, startBrowser, startServer, tempDir } from './harness.mjs';

export const WAIT = { timeout: 20_000 };
/** Set up before the first test. */
export const world = { data: '', server: undefined, relay: undefined, browser: undefined, cookies: undefined };

before(async () => {
  world.data = tempDir();
  world.server = await startServer(path.join(world.data, 'server'));
  world.relay = await startRelay(world.server.address);
  world.browser = await startBrowser();
  // One login for all: the server limits how often an address may try.
  const context = await world.browser.newContext({ baseURL: world.relay.address });
  await logIn(await context.newPage());
  world.cookies = await context.storageState();
  await context.close();
});
after(async () => {
  await world.browser?.close();
  await world.relay?.stop();
  await world.server?.stop();
  fs.rmSync(world.data, { recursive: true, force: true });
});

/** Runs `body` in a fresh browser profile and fails on anything the console complains about. */
export function ui(name, body, { login = true, expectErrors = false, skip = false } = {}) {
  it(name, { timeout: 120_000, skip }, async (t) => {
    const context = await world.browser.newContext({ baseURL: world.relay.address, storageState: login ? world.cookies : undefined, viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT.timeout);
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(error.stack ?? error.message));
    page.on('console', (message) => {
      // A server without machines or agents answers 404 when asked for them.
      const asked = /\/api\/v1\/(providers|agents|runtimes)$/.test(message.location().url) && /status of 404/.test(message.text());
      if (message.type() === 'error' && !asked && !/status of 401/.test(message.text())) complaints.push(message.text());
    });
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== world.relay.address && protocol !== 'blob:') complaints.push(`request to ${request.url()}`);
    });
    try {
      if (login) await page.goto('/machines');
      await body(page, context, t);
      if (!expectErrors) assert.deepEqual(complaints, []);
    } catch (error) {
      const shots = path.join(import.meta.dirname, '..', 'test-results');
      fs.mkdirSync(shots, { recursive: true });
      await page.screenshot({ path: path.join(shots, `${name.replaceAll(/\W+/g, '-')}.png`) }).catch(() => {});
      throw error;
    } finally {
      await context.close();
    }
  });
}

export async function logIn(page, at = '/machines') {
  await page.goto(at);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation', { name: 'Main' }).waitFor();
}

/** The text of the visible terminal (WebGL is off, so it is in the page). */
export const screen = (page) => page.locator('.xterm-rows:visible').first();
export const sees = (page, text) => screen(page).getByText(text).first().waitFor();

export async function run(page, line, { shell = true } = {}) {
  await page.getByLabel('Through a shell').setChecked(shell);
  await page.getByRole('textbox', { name: 'Command' }).fill(line);
  await page.keyboard.press('Enter');
  const view = page.getByRole('region', { name: /^Command / });
  await view.waitFor();
  return view;
}

export async function openTerminal(page) {
  await page.goto('/machines');
  await row(page, 'local').getByRole('button', { name: 'Terminal' }).click();
  await page.waitForURL('**/terminals');
  await sees(page, /[$#]/);
}

/** A machine in the list (or its card, on a server that has only itself). */
export const row = (page, target) =>
  page.getByRole('row').filter({ has: page.getByRole('link', { name: target, exact: true }) })
    .or(page.getByRole('article', { name: `Target ${target}`, exact: true }));

export const axe = fs.readFileSync(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

/** What axe finds wrong with the page as it is. */
export async function violations(page, at) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(() => globalThis.axe.run({ exclude: ['.xterm'] }));
  return found.map(({ id, nodes }) => `${at}: ${id}: ${nodes.map((it) => it.html.slice(0, 160)).join(' | ')}`);
}
