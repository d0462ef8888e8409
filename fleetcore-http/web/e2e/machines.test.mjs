// Machines, agents and one command on many of them, as people do it. What the
// server under test does not have is skipped, and said so.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { describe } from 'node:test';
import { isMock, server as binary } from './harness.mjs';
import { row, sees, ui, violations, world } from './setup.mjs';

/** Whether the server has `what`; skips the test otherwise. */
async function has(page, t, what) {
  const answer = await page.request.get(`/api/v1/${what}`);
  if (answer.ok()) return (await answer.json()).items;
  t.skip(`the server has no /${what}`);
  return undefined;
}

async function sandboxes(page, t) {
  const providers = await has(page, t, 'providers');
  const sandbox = providers?.find((it) => it.name === 'sandbox' && !it.agent);
  if (providers && !sandbox?.available) t.skip(`no sandboxes here: ${sandbox?.reason}`);
  return sandbox?.available ? sandbox : undefined;
}

const post = async (page, at, data) => {
  const answer = await page.request.post(`/api/v1/${at}`, { data, headers: { origin: world.relay.address } });
  assert.ok(answer.ok(), `${at}: ${answer.status()} ${await answer.text()}`);
  return answer.json();
};

/** Makes a sandbox and waits until the list shows it running. */
async function make(page, name, labels = {}) {
  await post(page, 'machines', { provider: 'sandbox', name, labels });
  await row(page, `sandbox/${name}`).getByText('running').waitFor();
}

async function confirm(page, label) {
  await page.getByRole('dialog').getByRole('button', { name: label, exact: true }).click();
}

describe('machines of providers', () => {
  ui('are created from a template with progress, stopped, started, and deleted', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    const dialog = page.getByRole('dialog', { name: 'Create a machine' });
    await dialog.getByText('Isolated', { exact: true }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('../x');
    await page.keyboard.press('Enter');
    await dialog.getByRole('alert').waitFor();
    await dialog.getByLabel('Name', { exact: true }).fill('life');
    await dialog.getByLabel('Labels').fill('role=test');
    await page.keyboard.press('Enter');
    const progress = page.getByRole('region', { name: 'Progress' });
    await progress.getByText('succeeded').waitFor();
    await page.getByRole('dialog').getByText('sandbox/life is ready').waitFor();
    await page.keyboard.press('Escape');
    const it = row(page, 'sandbox/life');
    await it.getByText('running').waitFor();
    await it.getByRole('button', { name: 'role=test' }).click();
    assert.match(page.url(), /q=role%3Dtest/);

    await it.getByRole('button', { name: 'Actions for sandbox/life' }).click();
    await page.getByRole('menuitem', { name: 'Stop', exact: true }).click();
    await page.getByRole('dialog').getByText('sandbox/life').waitFor();
    await confirm(page, 'Stop');
    await it.getByText('stopped').waitFor();
    await it.getByRole('button', { name: 'Start', exact: true }).click();
    await it.getByText('running').waitFor();
    await it.getByRole('button', { name: 'Actions for sandbox/life' }).click();
    await page.getByRole('menuitem', { name: 'Delete', exact: true }).click();
    await confirm(page, 'Delete');
    await it.waitFor({ state: 'detached' });
  });

  ui('tell a name that is taken at its field', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await make(page, 'taken');
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    await page.getByLabel('Name', { exact: true }).fill('taken');
    await page.keyboard.press('Enter');
    // Refused at once, or by the command that finds it there.
    await page.getByRole('dialog').getByText(/already|exists|taken|there/i).first().waitFor();
  }, { expectErrors: true });

  ui('are done to many at once, after one question', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await make(page, 'many1', { set: 'many' });
    await make(page, 'many2', { set: 'many' });
    await page.goto('/machines?q=set%3Dmany');
    await page.getByRole('checkbox', { name: 'Select all' }).check();
    await page.getByRole('toolbar').getByText('2 selected').waitFor();
    await page.getByRole('toolbar').getByRole('button', { name: 'Stop', exact: true }).click();
    await page.getByRole('dialog').getByText('sandbox/many1, sandbox/many2').waitFor();
    await confirm(page, 'Stop');
    for (const name of ['many1', 'many2']) await row(page, `sandbox/${name}`).getByText('stopped').waitFor();
    await page.getByRole('region', { name: 'Stop: progress' }).getByText('2 of 2 done').waitFor();
  });

  ui('show what another does to them without a reload', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await make(page, 'seen');
    const before = await page.evaluate(() => performance.timeOrigin);
    await post(page, 'targets/sandbox%2Fseen/stop', {});
    await row(page, 'sandbox/seen').getByText('stopped').waitFor();
    await post(page, 'targets/sandbox%2Fseen/delete', {});
    await row(page, 'sandbox/seen').waitFor({ state: 'detached' });
    assert.equal(await page.evaluate(() => performance.timeOrigin), before);
  });

  ui('have a terminal and files of their own', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await make(page, 'term');
    await row(page, 'sandbox/term').getByRole('button', { name: 'Terminal' }).click();
    await page.waitForURL('**/terminals');
    await sees(page, /[$#]/);
    await page.keyboard.type('echo inside-$((6*7))\n');
    await sees(page, 'inside-42');
    await page.goto('/files?target=sandbox%2Fterm&path=%2Ftmp');
    await page.getByRole('button', { name: 'New folder' }).click();
    await page.getByRole('dialog').getByRole('textbox').fill('made');
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'made', exact: true }).waitFor();
  }, { skip: isMock && 'the stand-in runs all on one host' });
});

describe('actions of providers', () => {
  ui('are forms, and their answers tables', async (page, context, t) => {
    const providers = await has(page, t, 'providers');
    const machines = (await has(page, t, 'machines')) ?? [];
    const one = machines.find((it) => it.state === 'running' && providers?.some((p) =>
      p.name === it.provider && (p.agent ?? null) === (it.agent ?? null) && p.actions.some((a) => a.name === 'snapshot')));
    if (!one) return t.skip('no provider with snapshots');
    await page.goto(`/machines/${encodeURIComponent(one.target)}`);
    const snapshots = page.getByRole('region', { name: 'Snapshots' });
    await snapshots.getByText('before the upgrade').waitFor();
    await snapshots.getByRole('button', { name: 'Take a snapshot' }).click();
    await page.getByRole('dialog').getByLabel(/^Comment/).fill('by a test');
    await page.getByRole('dialog').getByRole('button', { name: 'Snapshot', exact: true }).click();
    await page.getByRole('dialog').getByText('succeeded').waitFor();
    await page.getByRole('dialog').getByRole('button', { name: 'Close', exact: true }).last().click();
    await snapshots.getByText('snapshot2').waitFor();
    await snapshots.getByRole('button', { name: 'Restore' }).first().click();
    assert.equal(await page.getByRole('dialog').getByLabel(/^Snapshot/).inputValue(), 'snapshot1');
    await page.getByRole('dialog').getByText('can not be brought back').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('region', { name: /^Actions/ }).getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('dialog').getByLabel(/^Memory/).fill('much');
    await page.getByRole('dialog').getByRole('button', { name: 'Set limits' }).click();
    await page.getByRole('dialog').getByRole('alert').waitFor();
  });
});

describe('one command on many', () => {
  ui('runs, colours the grid, and shows the output of each', async (page, context, t) => {
    if (!await sandboxes(page, t)) return;
    await make(page, 'fan1', { set: 'fan' });
    await make(page, 'fan2', { set: 'fan' });
    await page.goto('/machines?q=set%3Dfan');
    await page.getByRole('checkbox', { name: 'Select all' }).check();
    await page.getByRole('link', { name: 'Run on these' }).click();
    await page.getByText(/^2$/).waitFor();
    await page.getByRole('textbox', { name: 'Command', exact: true }).fill('echo hello-from-here; exit 3');
    await page.keyboard.press('Enter');
    await page.waitForURL('**/fanout/*');
    const grid = page.getByRole('group', { name: 'Targets' });
    await grid.getByRole('button', { name: 'sandbox/fan1: failed, exit 3' }).waitFor();
    await grid.getByRole('button', { name: 'sandbox/fan2: failed, exit 3' }).click();
    await sees(page, 'hello-from-here');
    await page.getByRole('button', { name: /^failed 2/ }).waitFor();
    await page.reload();
    await grid.getByRole('button', { name: 'sandbox/fan1: failed, exit 3' }).waitFor();
    await page.getByRole('button', { name: 'Again on the 2 failed' }).click();
    await page.waitForURL('**/fanout?**');
    assert.equal(await page.getByRole('textbox', { name: 'Command', exact: true }).inputValue(), 'echo hello-from-here; exit 3');
  });

  ui('is walked with the arrow keys', async (page, context, t) => {
    if (!await has(page, t, 'providers')) return;
    const parent = await post(page, 'fanout', { targets: ['**'], command: { argv: ['true'] } });
    await page.goto(`/fanout/${parent.id}`);
    const cells = page.getByRole('group', { name: 'Targets' }).getByRole('button');
    await cells.first().focus();
    if (await cells.count() > 1) {
      await page.keyboard.press('ArrowRight');
      assert.equal(await cells.nth(1).evaluate((it) => it === document.activeElement), true);
    }
    await page.keyboard.press('Enter');
    await page.getByRole('region', { name: /^Command / }).waitFor();
  });
});

describe('agents', () => {
  ui('join with a code, are there without a reload, and can be removed', async (page, context, t) => {
    if (!await has(page, t, 'agents')) return;
    await page.goto('/agents');
    const add = page.getByRole('region', { name: 'Add a machine' });
    await page.getByRole('heading', { name: 'Agents' }).waitFor();
    if (!await add.isVisible()) await page.getByRole('button', { name: 'Add a machine' }).click();
    await add.getByLabel('Labels for it').fill('site=test');
    await add.getByRole('button', { name: 'Make a join code' }).click();
    const command = await add.getByText(/^fleetcore agent --server/).innerText();
    await add.getByText(/^fleetcore agent install/).waitFor();
    assert.ok(command.includes(await page.getByTestId('join-code').innerText()));
    if (isMock) return;
    const [, ...args] = command.split(/\s+/);
    const agent = spawn(binary, [...args, '--id', 'e2e-agent', '--data-dir', path.join(world.data, 'agent')], { stdio: ['ignore', 'ignore', 'pipe'] });
    let log = '';
    agent.stderr.on('data', (text) => (log += text));
    try {
      await add.getByText('e2e-agent joined').waitFor().catch((error) => {
        throw new Error(`${error.message}\n${log}`);
      });
      const there = page.getByRole('row').filter({ hasText: 'e2e-agent' });
      await there.getByText('online').waitFor();
      await there.getByText('site=test').waitFor();
      await page.goto('/machines');
      await row(page, 'e2e-agent').getByRole('button', { name: 'Terminal' }).click();
      await sees(page, /[$#]/);
      await page.keyboard.type('echo through-$((50+5))\n');
      await sees(page, 'through-55');
      await page.goto('/agents');
      await page.getByRole('button', { name: 'Plots' }).click();
      await page.getByRole('region', { name: 'Metrics of e2e-agent' }).waitFor();
      await page.getByRole('button', { name: 'Remove e2e-agent' }).click();
      await confirm(page, 'Remove');
      await there.waitFor({ state: 'detached' });
    } finally {
      const ended = new Promise((resolve) => agent.once('exit', resolve));
      if (agent.exitCode === null && agent.signalCode === null) {
        agent.kill();
        await ended;
      }
    }
  }, { expectErrors: true });
});

describe('accessibility of machines', () => {
  for (const colorScheme of ['light', 'dark']) {
    ui(`has no violation axe finds, ${colorScheme}`, async (page, context, t) => {
      if (!await has(page, t, 'providers')) return;
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      const found = [];
      const check = async (at) => found.push(...(await violations(page, at)));
      const create = page.getByRole('button', { name: 'Create', exact: true });
      await row(page, 'local').waitFor();
      await page.getByRole('checkbox', { name: 'Select all' }).check();
      await check('the list with a selection');
      if (await create.isVisible()) {
        await create.click();
        await page.getByLabel('Name', { exact: true }).waitFor();
        await check('the create dialog');
        await page.keyboard.press('Escape');
      }
      const parent = await post(page, 'fanout', { targets: ['**'], command: { shell: 'exit $(( $$ % 2 ))' } });
      await page.goto('/fanout');
      await page.getByRole('heading', { name: 'Recent' }).waitFor();
      await check('/fanout');
      await page.goto(`/fanout/${parent.id}`);
      await page.getByRole('group', { name: 'Targets' }).getByRole('button').first().click();
      await page.getByRole('region', { name: /^Command / }).waitFor();
      await check('a fan-out');
      if (await page.getByRole('link', { name: 'Agents' }).isVisible()) {
        await page.goto('/agents');
        await page.getByRole('heading', { name: 'Agents' }).waitFor();
        await check('/agents');
      }
      assert.deepEqual(found, []);
    });
  }
});
