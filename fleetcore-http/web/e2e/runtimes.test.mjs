// Runtimes of AI coding agents, as people see them.
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe } from 'node:test';
import { sees, ui, violations, world } from './setup.mjs';

describe('runtimes', () => {
  ui('one is started, watched while the agent works, taken over, and ended', async (page, _context, t) => {
    const answer = await page.request.get('/api/v1/runtimes');
    if (!answer.ok()) return t.skip('the server has no /runtimes');
    await page.getByRole('link', { name: 'Runtimes' }).click();
    await page.getByText('No runtimes').waitFor();
    assert.deepEqual(await violations(page), []);
    await page.getByRole('button', { name: 'Start the first one' }).click();
    await page.getByLabel('Where').selectOption('target');
    await page.getByRole('combobox', { name: /^Machine/ }).selectOption('local');
    await page.getByLabel('Working directory').fill(path.join(world.data, 'agent'));
    await page.getByRole('button', { name: 'Start', exact: true }).click();
    const key = await page.getByTestId('runtime-key').textContent();
    const url = await page.getByTestId('runtime-url').textContent();
    assert.deepEqual(await violations(page), []);

    await page.getByRole('link', { name: 'Watch it' }).click();
    await page.getByText('None yet.').waitFor();
    const act = (command) => page.request.post(`${url}/execute_action`, {
      headers: { 'x-session-api-key': key }, data: { action: { action: 'run', args: { command } } },
    });
    const acting = act("printf 'wor%s\\n' king; read -r line; printf 'got-%s\\n' \"$line\"");
    const actions = page.getByRole('region', { name: 'Actions of the agent' });
    await actions.getByText('running').waitFor();
    await sees(page, 'working');
    await page.getByText('read only').waitFor();
    await page.getByRole('button', { name: 'Take over the keyboard' }).click();
    await page.getByText("You type into the agent's shell").waitFor();
    await page.keyboard.type('hello');
    await page.keyboard.press('Enter');
    await sees(page, 'got-hello');
    const { content } = await (await acting).json();
    assert.match(content, /got-hello/);
    await actions.getByText('exit 0').waitFor();
    await page.getByRole('button', { name: 'Give it back' }).click();
    await page.getByText('read only').waitFor();
    assert.deepEqual(await violations(page), []);

    await page.getByRole('button', { name: 'End', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'End it' }).click();
    await page.waitForURL('**/runtimes');
    await page.getByText('No runtimes').waitFor();
    assert.equal((await page.request.get(`${url}/alive`)).status(), 404);
  });
});
