// Renders /api/v1/openapi.json. No framework and nothing from elsewhere: the page must work behind a strict CSP
// and without the Internet.
const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

const el = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
};

const api = await (await fetch('/api/v1/openapi.json')).json();
const resolve = (s) => (s?.$ref ? api.components.schemas[s.$ref.split('/').pop()] : s);

const typeOf = (s) => {
  if (!s) return 'any';
  if (s.$ref) return s.$ref.split('/').pop();
  const any = s.oneOf ?? s.anyOf;
  if (any) return any.map(typeOf).join(' | ');
  if (s.allOf) return s.allOf.map(typeOf).join(' & ');
  if (s.enum) return s.enum.map((v) => JSON.stringify(v)).join(' | ');
  const types = [s.type ?? 'any'].flat();
  return types.map((t) => (t === 'array' ? `${typeOf(s.items)}[]` : t)).join(' | ') + (s.format ? ` (${s.format})` : '');
};

const fields = (schema, depth = 0) => {
  const s = resolve(schema);
  const merged = { ...s?.properties };
  const required = new Set(s?.required ?? []);
  for (const part of s?.allOf ?? []) {
    const p = resolve(part);
    Object.assign(merged, p?.properties);
    (p?.required ?? []).forEach((r) => required.add(r));
  }
  if (!Object.keys(merged).length) return el('p', {}, el('code', { textContent: typeOf(schema) }));
  const rows = Object.entries(merged).map(([name, f]) => {
    const inner = resolve(f.items ?? (f.oneOf ?? []).find((o) => o.$ref) ?? f);
    const nested = depth < 3 && inner?.properties ? el('details', {}, el('summary', { textContent: 'fields' }), fields(inner, depth + 1)) : null;
    return el('tr', {},
      el('td', {}, el('code', { textContent: name + (required.has(name) ? ' *' : '') })),
      el('td', {}, el('code', { textContent: typeOf(f) })),
      el('td', {}, f.description ?? '', nested));
  });
  return el('table', {}, ...rows);
};

const parameters = (list) => el('table', {}, ...list.map((p) => el('tr', {},
  el('td', {}, el('code', { textContent: p.name + (p.required ? ' *' : '') })),
  el('td', { textContent: p.in }),
  el('td', {}, el('code', { textContent: typeOf(p.schema) })),
  el('td', { textContent: p.description ?? '' }))));

const curl = (path, method, op) => {
  const parts = [`curl -H "Authorization: Bearer $FLEETCORE_TOKEN"`];
  if (method !== 'get') parts.push(`-X ${method.toUpperCase()}`);
  if (op.requestBody?.content?.['application/json']) parts.push(`-H 'Content-Type: application/json' -d '{…}'`);
  else if (op.requestBody) parts.push('--data-binary @-');
  const required = (op.parameters ?? []).filter((p) => p.in === 'query' && p.required).map((p) => `${p.name}=…`);
  parts.push(`'${location.origin}${path}${required.length ? `?${required.join('&')}` : ''}'`);
  return el('pre', { textContent: parts.join(' \\\n  ') });
};

const index = document.getElementById('index');
const main = document.getElementById('main');
main.replaceChildren(el('p', { textContent: api.info.description }));
const entries = [];
const tags = api.tags?.map((t) => t.name) ?? [];
for (const tag of tags) {
  const ops = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((m) => item[m]?.tags?.includes(tag)).map((m) => [path, m, item[m]]));
  if (!ops.length) continue;
  const heading = el('h2', { textContent: tag });
  index.append(heading);
  for (const [path, method, op] of ops) {
    const id = op.operationId;
    const link = el('a', { href: `#${id}` }, el('span', { className: `method ${method}`, textContent: method }), path.replace('/api/v1', ''));
    index.append(link);
    const body = op.requestBody?.content ?? {};
    const section = el('section', { id },
      el('h3', {}, el('span', { className: `method ${method}`, textContent: method }), el('code', { textContent: path })),
      el('p', { textContent: op.summary ?? '' }),
      op.description ? el('p', { textContent: op.description }) : null,
      op.parameters?.length ? el('details', { open: true }, el('summary', { textContent: 'Parameters' }), parameters(op.parameters)) : null,
      ...Object.entries(body).map(([type, c]) => el('details', {}, el('summary', { textContent: `Body: ${type}` }), fields(c.schema))),
      ...Object.entries(op.responses).map(([status, r]) => el('details', {},
        el('summary', { textContent: `${status}: ${r.description}` }),
        ...Object.entries(r.content ?? {}).flatMap(([type, c]) => [el('p', {}, el('code', { textContent: type })), fields(c.schema)]))),
      el('details', {}, el('summary', { textContent: 'curl' }), curl(path, method, op)));
    main.append(section);
    entries.push([`${method} ${path} ${op.summary ?? ''} ${id}`.toLowerCase(), link, section]);
  }
}
document.getElementById('search').addEventListener('input', (e) => {
  const words = e.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const [text, link, section] of entries) {
    const hide = !words.every((w) => text.includes(w));
    link.hidden = hide;
    link.style.display = hide ? 'none' : '';
    section.hidden = hide;
  }
});
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
