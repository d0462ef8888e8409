// `FLEETCORE_BIN=... npm run screenshot -- DIR`: pictures of the main screens, dark and light,
// from a server of its own. For the README, and for looking at what a change did.
import fs from 'node:fs';
import path from 'node:path';
import { missing, PASSWORD, startBrowser, startServer, tempDir } from '../e2e/harness.mjs';

const reason = missing();
if (reason) {
  console.error(reason);
  process.exit(1);
}
const into = path.resolve(process.argv[2] ?? 'test-results');
fs.mkdirSync(into, { recursive: true });
const data = tempDir();
const server = await startServer(data);
const browser = await startBrowser({ webgl: true });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

try {
  for (const colorScheme of ['dark', 'light']) {
    const context = await browser.newContext({ baseURL: server.address, colorScheme, viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    const shot = async (name) => {
      await pause(700); // For drawing only: nothing is asserted here.
      await page.screenshot({ path: path.join(into, `${name}-${colorScheme}.png`) });
    };
    await page.goto('/');
    await page.getByLabel('Password').fill(PASSWORD);
    await shot('login');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Machines' }).waitFor();
    await page.getByRole('link', { name: 'local' }).first().waitFor();
    await pause(5000);
    await shot('machines');
    await page.goto('/machines/local');
    await page.getByRole('region', { name: 'Facts' }).waitFor();
    await pause(1500);
    await shot('machine');
    await page.goto('/machines');
    const create = page.getByRole('button', { name: 'Create', exact: true });
    await page.getByRole('link', { name: 'local' }).first().waitFor();
    if (await create.isVisible()) {
      await create.click();
      await shot('create');
      await page.getByLabel('Name', { exact: true }).fill(`shot-${colorScheme}`);
      await page.keyboard.press('Enter');
      await page.getByRole('region', { name: 'Progress' }).getByText('succeeded').waitFor();
      await shot('created');
      await page.keyboard.press('Escape');
      await page.getByRole('checkbox', { name: 'Select all' }).check();
      await shot('bulk');
      await page.goto('/fanout');
      await page.getByLabel('On which machines').fill('*');
      await page.getByLabel('Command', { exact: true }).fill('uname -sr; nproc; [ $(( $$ % 3 )) -gt 0 ]');
      await shot('fanout');
      await page.keyboard.press('Enter');
      await page.waitForURL('**/fanout/*');
      await page.getByRole('group', { name: 'Targets' }).getByRole('button').nth(1).click();
      await shot('fanout-run');
    }
    if (await page.getByRole('link', { name: 'Agents' }).isVisible()) {
      await page.goto('/agents');
      await page.getByRole('heading', { name: 'Agents' }).waitFor();
      await pause(500);
      const add = page.getByRole('button', { name: 'Add a machine' });
      if ((await add.getAttribute('aria-expanded')) === 'false') await add.click();
      await page.getByRole('button', { name: 'Make a join code' }).click();
      const plots = page.getByRole('button', { name: 'Plots' }).first();
      if (await plots.isVisible()) await plots.click();
      await shot('agents');
    }
    await page.goto('/users');
    await page.getByRole('table').waitFor();
    await shot('users');
    await page.goto('/run');
    await page.getByRole('textbox', { name: 'Command' }).fill('ls -la --color=always / | head -25; uname -a; exit 3');
    await page.keyboard.press('Enter');
    await page.getByText('failed').waitFor();
    await shot('run');
    await page.getByRole('button', { name: 'Replay' }).click();
    await shot('replay');
    await page.goto('/history');
    await page.getByRole('table').waitFor();
    await shot('history');
    await page.goto('/machines');
    await page.getByRole('button', { name: 'Terminal' }).first().click();
    await page.waitForURL('**/terminals');
    await pause(1000);
    await page.keyboard.type('ls --color=always -x /usr/lib | head -20; printf "\\e[1;32mready\\e[0m\\n"\n');
    await shot('terminals');
    await page.goto('/files?target=local&path=/etc');
    await page.getByRole('table').waitFor();
    await shot('files');
    await page.goto('/tokens');
    await page.getByRole('heading', { level: 1 }).waitFor();
    await shot('tokens');
    await page.goto('/audit');
    await page.getByRole('table').waitFor();
    await shot('audit');
    await context.close();
  }
  console.log(into);
} finally {
  await browser.close();
  await server.stop();
  fs.rmSync(data, { recursive: true, force: true });
}
