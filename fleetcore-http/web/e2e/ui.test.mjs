// The browser front end in a real Chromium against a real server. No test
// waits for a fixed time: each waits for what a user would see.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe } from 'node:test';
import { isMock, PASSWORD, startServer } from './harness.mjs';
import { logIn, openTerminal, row, run, screen, sees, ui, violations, WAIT, world } from './setup.mjs';

describe('login', () => {
  ui('refuses a wrong password and takes the right one to the page asked for', async (page) => {
    await page.goto('/history?state=failed');
    await page.getByLabel('Password').fill('not the password');
    await page.keyboard.press('Enter');
    await page.getByText('Wrong user or password.').waitFor();
    await page.getByLabel('Password').fill(PASSWORD);
    await page.keyboard.press('Enter');
    await page.waitForURL('**/history?state=failed');
    await page.getByRole('button', { name: 'failed', pressed: true }).waitFor();
  }, { login: false });

  ui('comes back after the login was lost, and ends with log out', async (page, context) => {
    await logIn(page);
    await page.goto('/tokens');
    await context.clearCookies();
    await page.goto('/audit');
    await page.waitForURL('**/login?next=%2Faudit');
    await page.getByLabel('Password').fill(PASSWORD);
    await page.keyboard.press('Enter');
    await page.waitForURL('**/audit');
    await page.getByRole('button', { name: /Log out/ }).click();
    await page.waitForURL('**/login');
    await page.goto('/machines');
    await page.waitForURL('**/login?next=**');
  }, { login: false });
});

describe('machines', () => {
  ui('shows this host with its load, drawn live, as a card and in the list', async (page) => {
    await page.getByRole('button', { name: 'As cards' }).click();
    const card = page.getByRole('article', { name: 'Target local' });
    await card.getByText('running').waitFor();
    for (const label of ['CPU', 'Memory', 'Disk']) await card.getByRole('meter', { name: label }).waitFor();
    await card.locator('canvas').waitFor();
    const first = await card.locator('.numbers').innerText();
    await page.waitForFunction(
      ([text]) => document.querySelector('.numbers')?.innerText.trim() !== text, [first.trim()], WAIT);
    await page.getByRole('button', { name: 'As a list' }).click();
    await row(page, 'local').getByText(/CPU/).waitFor();
    await page.getByRole('link', { name: 'local', exact: true }).click();
    await page.getByRole('region', { name: 'Facts' }).getByText('Processors').waitFor();
  });

  ui('filters as one types, and keeps the filter in the address', async (page) => {
    await row(page, 'local').waitFor();
    await page.keyboard.press('/');
    await page.keyboard.type('no-such-machine');
    await page.getByText('Nothing matches the filter').waitFor();
    assert.match(page.url(), /q=no-such-machine/);
    await page.getByRole('button', { name: 'Clear the filter' }).click();
    await row(page, 'local').waitFor();
  });
});

describe('run', () => {
  ui('streams output as it comes, with colour, then the exit code', async (page) => {
    await page.goto('/run');
    const flag = path.join(world.data, 'go-on');
    const view = await run(page, `printf '\\033[31mred\\033[0m first\\n'; while [ ! -e ${flag} ]; do sleep 0.05; done; echo second; exit 7`);
    await sees(page, 'first');
    await view.getByText('running').waitFor();
    assert.equal(await screen(page).locator('.xterm-fg-1').first().innerText(), 'red');
    fs.writeFileSync(flag, '');
    await sees(page, 'second');
    await view.getByText('failed').waitFor();
    assert.match(await view.locator('.facts').innerText(), /Exit\s*7/);
  });

  ui('passes arguments without a shell and says what would need one', async (page) => {
    await page.goto('/run');
    await page.getByLabel('Through a shell').setChecked(false);
    await page.getByRole('textbox', { name: 'Command' }).fill(`printf '<%s>' "a b" $HOME`);
    await page.getByText('is passed as it is').waitFor();
    await page.keyboard.press('Enter');
    await sees(page, '<a b><$HOME>');
  });

  ui('tells a program that does not exist at the form', async (page) => {
    await page.goto('/run');
    await page.getByLabel('Through a shell').setChecked(false);
    await page.getByRole('textbox', { name: 'Command' }).fill('/no/such/program');
    await page.keyboard.press('Enter');
    await page.locator('form').getByRole('alert').waitFor();
  }, { expectErrors: true });

  ui('cancels', async (page) => {
    await page.goto('/run');
    const view = await run(page, 'echo started; sleep 1000');
    await sees(page, 'started');
    await view.getByRole('button', { name: 'Cancel' }).click();
    await view.getByText('cancelled', { exact: true }).first().waitFor();
  });

  ui('draws all of a large output and finds text in it', async (page) => {
    await page.goto('/run');
    const view = await run(page, 'seq 1 300000; echo the-very-end');
    await view.getByText('succeeded').waitFor();
    await sees(page, 'the-very-end');
    await view.getByRole('button', { name: 'Search in the output' }).click();
    await page.getByLabel('Search in the output', { exact: true }).and(page.locator('input')).fill('299998');
    await view.getByText('1 of 1').waitFor();
  });

  ui('downloads the exact bytes and the recording', async (page) => {
    await page.goto('/run');
    const view = await run(page, `printf 'raw \\377\\000 bytes\\n'`);
    await view.getByText('succeeded').waitFor();
    const fetched = async (name) => {
      await view.getByRole('button', { name: 'Download' }).click();
      const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('menuitem', { name }).click()]);
      return fs.readFileSync(await download.path());
    };
    assert.deepEqual(await fetched('Raw output'), Buffer.from('raw \xff\x00 bytes\n', 'latin1'));
    assert.equal(JSON.parse((await fetched('Recording')).toString().split('\n')[0]).version, 2);
  });
});

describe('history', () => {
  ui('lists, filters, and replays', async (page) => {
    await page.goto('/run');
    const marker = `marker-${Date.now()}`;
    const view = await run(page, `echo ${marker}; exit 4`);
    await view.getByText('failed').waitFor();
    await page.goto('/history');
    await page.getByLabel('Search commands').fill(marker);
    await page.waitForURL(`**search=${marker}`);
    const row = page.getByRole('row').filter({ hasText: marker });
    await row.waitFor();
    assert.match(await row.innerText(), /failed[\s\S]*local[\s\S]*4/);
    await page.getByRole('button', { name: 'succeeded' }).click();
    await page.getByText('No command matches').waitFor();
    await page.getByRole('button', { name: 'Clear the filter' }).click();
    await page.getByRole('link', { name: new RegExp(marker) }).first().click();
    await page.waitForURL('**/commands/**');
    await sees(page, marker);
    await page.getByRole('button', { name: 'Replay' }).click();
    await page.getByRole('button', { name: '4×' }).click();
    await page.getByLabel('Position').waitFor();
    await sees(page, marker);
  });

  ui('follows commands started elsewhere without a reload', async (page, context) => {
    await page.goto('/history');
    await page.getByRole('heading', { name: 'History' }).waitFor();
    const other = await context.newPage();
    await other.goto('/run');
    const marker = `elsewhere-${Date.now()}`;
    await run(other, `echo ${marker}`);
    await page.getByRole('row').filter({ hasText: marker }).getByText('succeeded').waitFor();
  });
});

describe('terminals', () => {
  ui('types, survives a reload, and keeps its tabs in order', async (page) => {
    await openTerminal(page);
    await page.keyboard.type('echo first-$((40+2))\n');
    await sees(page, 'first-42');
    await page.keyboard.press('Alt+Shift+N');
    await page.getByRole('tab').nth(1).waitFor();
    await sees(page, /[$#]/);
    await page.keyboard.type('echo second-$((50+2))\n');
    await sees(page, 'second-52');
    await page.reload();
    await sees(page, 'second-52');
    await page.keyboard.press('Alt+1');
    await sees(page, 'first-42');
    await page.keyboard.type('echo still-$((1+1))\n');
    await sees(page, 'still-2');
  });

  ui('comes back after the connection was cut, losing and repeating nothing', async (page) => {
    await openTerminal(page);
    await page.keyboard.type('for i in $(seq 1 40); do echo "line-$i-"; sleep 0.1; done; echo all-$((0+0))-done\n');
    await sees(page, 'line-3-');
    world.relay.cut();
    await page.getByText('Connection lost').waitFor();
    world.relay.mend();
    await page.getByRole('button', { name: 'Try now' }).click({ timeout: 2_000 }).catch(() => {});
    await sees(page, 'all-0-done');
    const text = await screen(page).innerText();
    const lines = [...text.matchAll(/line-(\d+)-\s*$/gm)].map((it) => Number(it[1]));
    const last = lines.slice(-20);
    assert.deepEqual(last, Array.from({ length: 20 }, (_, i) => i + 21));
  }, { expectErrors: true });

  ui('tells the shell its size', async (page) => {
    await openTerminal(page);
    const shown = await page.locator('footer:visible').getByText(/\d+×\d+/).innerText();
    const [cols, rows] = shown.split('×');
    await page.keyboard.type('stty size\n');
    await sees(page, `${rows} ${cols}`);
  });

  ui('asks before a busy session ends, and ends it', async (page) => {
    await openTerminal(page);
    await page.keyboard.type('sleep 1000\n');
    await page.locator('.tab.active .dot.busy').waitFor();
    const before = await page.getByRole('tab').count();
    await page.keyboard.press('Alt+Shift+W');
    await page.getByRole('dialog').getByText('A command is still running').waitFor();
    await page.keyboard.press('Escape');
    assert.equal(await page.getByRole('tab').count(), before);
    await page.keyboard.press('Alt+Shift+W');
    await page.getByRole('button', { name: 'End session' }).click();
    await page.waitForFunction((n) => document.querySelectorAll('[role=tab]').length === n - 1, before, WAIT);
  });

  ui('keeps the last screen of a shell that exits', async (page) => {
    await openTerminal(page);
    await page.keyboard.type('exit 3\n');
    await sees(page, /session ended/);
    await page.keyboard.press('Alt+Shift+W');
    await page.getByText('No terminal is open').waitFor();
  });

  ui('downloads what was printed', async (page) => {
    await openTerminal(page);
    await page.keyboard.type('echo saved-$((3+4))\n');
    await sees(page, 'saved-7');
    await page.getByRole('button', { name: 'Terminal menu' }).locator('visible=true').click();
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('menuitem', { name: 'Download as text' }).click()]);
    assert.match(fs.readFileSync(await download.path(), 'utf8'), /saved-7/);
  });
});

describe('files', () => {
  ui('uploads, renames, and deletes', async (page) => {
    const dir = path.join(world.data, 'files');
    fs.mkdirSync(dir);
    await page.goto(`/files?target=local&path=${encodeURIComponent(dir)}`);
    await page.getByText('Empty folder').waitFor();
    const content = Buffer.from('content \xff', 'latin1');
    await page.getByLabel('Files to upload').setInputFiles({ name: 'a b.txt', mimeType: 'text/plain', buffer: content });
    await page.getByRole('button', { name: 'a b.txt', exact: true }).waitFor();
    assert.deepEqual(fs.readFileSync(path.join(dir, 'a b.txt')), content);
    await page.getByRole('button', { name: 'Rename a b.txt' }).click();
    await page.getByRole('dialog').getByRole('textbox').fill('c.txt');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'c.txt', exact: true }).waitFor();
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download c.txt' }).click()]);
    assert.deepEqual(fs.readFileSync(await download.path()), content);
    await page.getByRole('button', { name: 'Delete c.txt' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('Empty folder').waitFor();
    assert.deepEqual(fs.readdirSync(dir), []);
  });
});

describe('files by hand', () => {
  ui('opens text, and takes what is dropped, folders too', async (page) => {
    const dir = path.join(world.data, 'dropped');
    fs.mkdirSync(dir);
    fs.writeFileSync(path.join(dir, 'notes.txt'), 'first line\nsecond line\n');
    await page.goto(`/files?target=local&path=${encodeURIComponent(dir)}`);
    await page.getByRole('button', { name: 'notes.txt', exact: true }).click();
    await page.getByRole('dialog', { name: 'notes.txt' }).getByText('second line').waitFor();
    await page.keyboard.press('Escape');
    await page.evaluate(() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(['dropped content'], 'dropped.txt'));
      document.querySelector('.page').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    });
    await page.getByRole('button', { name: 'dropped.txt', exact: true }).waitFor();
    assert.equal(fs.readFileSync(path.join(dir, 'dropped.txt'), 'utf8'), 'dropped content');
  });
});

describe('files from elsewhere', () => {
  ui('shows what another window makes and removes', async (page, context) => {
    const dir = path.join(world.data, 'shared');
    fs.mkdirSync(dir);
    const here = `/files?target=local&path=${encodeURIComponent(dir)}`;
    await page.goto(here);
    await page.getByText('Empty folder').waitFor();
    const other = await context.newPage();
    await other.goto(here);
    await other.getByRole('button', { name: 'New folder' }).click();
    await other.getByRole('dialog').getByRole('textbox').fill('made there');
    await other.keyboard.press('Enter');
    await page.getByRole('link', { name: 'made there' }).waitFor();
    await other.getByRole('button', { name: 'Delete made there' }).click();
    await other.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.getByText('Empty folder').waitFor();
  });
});

describe('users', () => {
  ui('makes one, changes it, and deletes it', async (page) => {
    await page.goto('/users');
    await page.getByRole('button', { name: 'New user' }).click();
    await page.getByLabel('Name').fill('mallory');
    await page.getByRole('dialog').getByText('viewer').click();
    await page.getByLabel('Password, at least 12 characters').fill('a long password');
    await page.getByRole('button', { name: 'Create user' }).click();
    const mallory = page.getByRole('row').filter({ hasText: 'mallory' });
    await mallory.waitFor();
    await page.getByLabel('Role of mallory').selectOption('operator');
    await mallory.getByText('also runs commands').waitFor();
    await page.getByRole('button', { name: 'Disable mallory' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Disable' }).click();
    await mallory.getByText('disabled').waitFor();
    await page.reload();
    await mallory.getByText('disabled').waitFor();
    assert.equal(await page.getByLabel('Role of mallory').inputValue(), 'operator');
    await page.getByRole('button', { name: 'Delete mallory' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await mallory.waitFor({ state: 'detached' });
  });
});

describe('audit', () => {
  ui('shows what happens elsewhere without a reload', async (page, context) => {
    await page.goto('/audit');
    await page.getByRole('table').waitFor();
    const before = await page.getByRole('row').filter({ hasText: 'session.create' }).count();
    const other = await context.newPage();
    await openTerminal(other);
    await page.waitForFunction((n) => [...document.querySelectorAll('tr')].filter((it) => it.innerText.includes('session.create')).length > n, before, WAIT);
  });
});

describe('tokens', () => {
  ui('shows a secret once, which works until revoked', async (page) => {
    await page.goto('/tokens');
    await page.getByLabel('Name').fill('e2e');
    await page.getByRole('button', { name: 'Create token' }).click();
    const secret = await page.getByText(/^fct_/).innerText();
    const status = async () => (await fetch(`${world.server.address}/api/v1/targets`, { headers: { authorization: `Bearer ${secret}` } })).status;
    assert.equal(await status(), 200);
    await page.reload();
    await page.getByRole('button', { name: 'Revoke e2e' }).waitFor();
    assert.equal(await page.getByText(/^fct_/).count(), 0);
    await page.getByRole('button', { name: 'Revoke e2e' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
    await page.getByRole('button', { name: 'Revoke e2e' }).waitFor({ state: 'detached' });
    assert.equal(await status(), 401);
  });
});

describe('keyboard and looks', () => {
  ui('is driven by keys alone', async (page) => {
    await row(page, 'local').waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
    await page.keyboard.press('Escape');
    await page.keyboard.press('g');
    await page.keyboard.press('h');
    await page.waitForURL('**/history');
    await page.keyboard.press('Control+k');
    await page.getByRole('combobox', { name: 'Command' }).fill('audit');
    await page.keyboard.press('Enter');
    await page.waitForURL('**/audit');
    await page.getByText('login').first().waitFor();
  });

  ui('remembers the theme', async (page) => {
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await background();
    await page.getByRole('button', { name: 'Switch to the dark theme' }).click();
    const dark = await background();
    assert.notEqual(dark, light);
    await page.reload();
    await page.getByRole('button', { name: 'Switch to the light theme' }).waitFor();
    assert.equal(await background(), dark);
  });
});

describe('a server that is killed', () => {
  ui('is found again, with the login, the history and what was lost', async (page) => {
    await page.goto('/run');
    const marker = `killed-${Date.now()}`;
    const view = await run(page, `echo ${marker}; sleep 1000`);
    await sees(page, marker);
    await view.getByText('running').waitFor();
    await world.server.stop('SIGKILL');
    await page.getByText('No live updates').waitFor();
    world.server = await startServer(path.join(world.data, 'server'), Number(new URL(world.server.address).port));
    await page.goto(`/history?search=${marker}`);
    const row = page.getByRole('row').filter({ hasText: marker });
    await row.getByText('lost').waitFor();
    await row.getByRole('link', { name: new RegExp(marker) }).first().click();
    await sees(page, marker);
    await page.getByText('lost').first().waitFor();
  }, { skip: isMock, expectErrors: true });
});

describe('accessibility', () => {
  for (const colorScheme of ['light', 'dark']) {
    ui(`has no violation axe finds, ${colorScheme}`, async (page) => {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      await page.goto('/run');
      const view = await run(page, 'echo for-axe');
      await view.getByText('succeeded').waitFor();
      const found = [];
      const check = async (at) => found.push(...(await violations(page, at)));
      await check('/run');
      for (const at of ['/machines', '/machines/local', '/history', '/tokens', '/users', '/audit', '/runtimes', '/files?target=local&path=/etc', '/terminals']) {
        await page.goto(at);
        await page.getByRole('heading', { level: 1 }).waitFor();
        await page.waitForFunction(() => !document.querySelector('.busy, .progress'));
        await check(at);
      }
      await openTerminal(page);
      await check('an open terminal');
      await page.getByRole('button', { name: 'Terminal menu' }).locator('visible=true').click();
      await check('the terminal menu');
      await page.keyboard.press('Escape');
      await page.getByRole('button', { name: 'Commands' }).click();
      await page.getByRole('combobox', { name: 'Command' }).waitFor();
      await check('the palette');
      assert.deepEqual(found, []);
    });
  }
});
