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
    await page.getByRole('article').first().waitFor();
    await pause(5000);
    await shot('targets');
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
    await page.goto('/targets');
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
