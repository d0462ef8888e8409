import { readFile } from 'node:fs/promises';
import openapiTS, { astToString } from 'openapi-typescript';
import { expect, it } from 'vitest';

it('is what the OpenAPI document of the server says (else: npm run types)', async () => {
  const document = new URL('../../../../openapi.json', import.meta.url);
  const generated = astToString(await openapiTS(document)).trim();
  const committed = await readFile(new URL('./schema.ts', import.meta.url), 'utf8');
  expect(committed).toContain(generated);
});
