// `npm run e2e`: says loudly why when it can not run, else hands over to node:test.
import { spawnSync } from 'node:child_process';
import { missing } from './harness.mjs';

const reason = missing();
if (reason) {
  console.log(`\n*** BROWSER END-TO-END TESTS SKIPPED: ${reason} ***\n`);
  process.exit(0);
}
const { status } = spawnSync(process.execPath, ['--test', '--test-reporter=spec', '--test-concurrency=1', ...process.argv.slice(2).filter((it) => it.startsWith('--')),
  `${import.meta.dirname}/ui.test.mjs`, `${import.meta.dirname}/machines.test.mjs`, `${import.meta.dirname}/runtimes.test.mjs`], { stdio: 'inherit' });
process.exit(status ?? 1);
