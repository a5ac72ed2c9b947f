// node --test docs/examples/nextjs/middleware.test.mjs needs Node.js 20.6 or newer, and nothing else: next/server is a stub.

import assert from 'node:assert/strict';
import { register } from 'node:module';
import { beforeEach, test } from 'node:test';

const stub = `export const NextResponse = { next: (init) => ({ status: 200, passedOn: init.request.headers }) };`;
const hooks = `
  export function resolve(name, context, next) {
    return name === 'next/server' ? { url: 'data:text/javascript,${encodeURIComponent(stub)}', shortCircuit: true } : next(name, context);
  }
  export function load(url, context, next) {
    return next(url, url.includes('/middleware.js') ? { ...context, format: 'module' } : context);
  }`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);

process.env.TOLLGATE_URL = 'http://tollgate.test/';
process.env.TOLLGATE_SERVICE_KEY = 'tg_service_secret';

/** The clock, in milliseconds. */
let now = 0;
Date.now = () => now;

/** What Tollgate was asked, and what it says: a function of the host. */
let asked = [];
let tollgate;
globalThis.fetch = async (url, init) => {
  asked.push(new URL(url).searchParams.get('host'));
  assert.equal(new URL(url).origin + new URL(url).pathname, 'http://tollgate.test/v1/resolve');
  assert.equal(init.headers.authorization, 'Bearer tg_service_secret');
  assert.equal(init.redirect, 'manual');
  return tollgate(asked.at(-1), init);
};

let warnings = 0;
console.warn = () => warnings++;

const is = (tenantId, status = 'active') => Response.json({ tenantId, plan: 'pro', status, flagsETag: '"x"' });
const refuses = (status, code) => Response.json({ code }, { status });
const statuses = { 'acme.product.com': 'active', 'susp.product.com': 'suspended', 'closed.product.com': 'closed', 'odd.product.com': 'frozen' };
const working = (host) => (statuses[host] ? is(`tenant_${host.split('.')[0]}`, statuses[host]) : refuses(404, 'unknown_tenant'));
const down = () => refuses(503, 'store_unavailable');

let middleware;
let config;
let background = [];

/** Sends a request; headers as pairs, so that one can come twice. */
async function send(host, ...headers) {
  const answer = await middleware({ headers: new Headers([['host', host], ...headers]) }, { waitUntil: (work) => background.push(work) });
  if (answer.passedOn) return { status: 200, headers: answer.passedOn, id: answer.passedOn.get('x-tenant-id') };
  return { status: answer.status, headers: answer.headers, code: (await answer.json()).code };
}

let copies = 0;
beforeEach(async () => {
  ({ default: middleware, config } = await import(`./middleware.js?${copies++}`)); // each with a memory of its own
  [now, asked, tollgate, warnings, background] = [1_800_000_000_000, [], working, 0, []];
  delete process.env.TOLLGATE_TRUST_FORWARDED_HOST;
});

test('the tenant of the host is in the headers', async () => {
  const { id, headers } = await send('ACME.Product.com.:8443', ['accept', 'text/html']);
  assert.equal(id, 'tenant_acme');
  assert.equal(headers.get('x-tenant-status'), 'active');
  assert.equal(headers.get('accept'), 'text/html');
  assert.deepEqual(asked, ['acme.product.com']);
});

test('a client cannot name a tenant', async () => {
  const { headers } = await send('susp.product.com', ['X-Tenant-Id', 'evil'], ['x-tenant-id', 'evil'], ['X_Tenant_ID', 'evil'], ['x-tenant-status', 'active']);
  const named = [...headers].filter(([name]) => name.includes('tenant'));
  assert.deepEqual(named, [['x-tenant-id', 'tenant_susp'], ['x-tenant-status', 'suspended']]);
  assert.equal((await send('nobody.product.com', ['X-Tenant-Id', 'tenant_acme'])).status, 404);
});

test('refusals', async () => {
  for (const [host, status, code] of [
    ['nobody.product.com', 404, 'unknown_tenant'],
    ['closed.product.com', 403, 'tenant_closed'],
    ['odd.product.com', 503, 'tenant_unavailable'],
  ]) {
    const answer = await send(host);
    assert.deepEqual([answer.status, answer.code], [status, code], host);
    assert.equal(answer.headers.get('cache-control'), 'no-store');
    assert.equal(answer.headers.get('retry-after'), status === 503 ? '1' : null);
  }
});

test('what is no host name is not asked about', async () => {
  for (const host of ['', '.', 'acme..com', 'acme.product.com..', 'acme.product.com:99999', 'acme.product.com:80:80', 'acme.product.com:80@evil.com', '[::1]:80',
    'ac_me.product.com', '%61cme.product.com', 'acme.product.com,globex.product.com', '\u00e4cme.product.com', `${'a'.repeat(64)}.com`, `${'a.'.repeat(130)}com`]) {
    assert.equal((await send(host)).status, 404, host);
  }
  assert.deepEqual(asked, []);
});

test('a forwarded host is believed only where that was said', async () => {
  assert.equal((await send('acme.product.com', ['x-forwarded-host', 'susp.product.com'])).id, 'tenant_acme');
  process.env.TOLLGATE_TRUST_FORWARDED_HOST = '1';
  assert.equal((await send('backend', ['x-forwarded-host', 'SUSP.product.com:443'])).id, 'tenant_susp');
  assert.equal((await send('acme.product.com')).id, 'tenant_acme');
  const two = await send('backend', ['x-forwarded-host', 'acme.product.com'], ['x-forwarded-host', 'acme.product.com']);
  assert.deepEqual([two.status, two.code], [400, 'tenant_conflict']);
});

test('an answer is kept for a second, also that there is no tenant', async () => {
  for (const [host, status] of [['acme.product.com', 200], ['nobody.product.com', 404]]) {
    asked = [];
    assert.equal((await send(host)).status, status);
    now += 499;
    assert.equal((await send(host)).status, status);
    assert.equal(asked.length, 1);
    now += 501;
    tollgate = () => is('tenant_new');
    assert.equal((await send(host)).id, 'tenant_new');
    assert.equal(asked.length, 2);
    tollgate = working;
  }
});

test('a busy host is asked about ahead of time', async () => {
  await send('acme.product.com');
  let release;
  tollgate = (host) => new Promise((resolve) => { release = () => resolve(working(host)); });
  now += 600;
  for (let i = 0; i < 10; i++) assert.equal((await send('acme.product.com')).id, 'tenant_acme');
  assert.equal(asked.length, 2);
  release();
  await Promise.all(background);
  now += 450; // the first answer is too old now
  assert.equal((await send('acme.product.com')).id, 'tenant_acme');
  assert.equal(asked.length, 2);
});

test('many at once ask once', async () => {
  const answers = await Promise.all(Array.from({ length: 500 }, () => send('acme.product.com')));
  assert.ok(answers.every(({ id }) => id === 'tenant_acme'));
  assert.equal(asked.length, 1);
});

test('known tenants outlast an outage, and nothing else does', async () => {
  await send('acme.product.com');
  await send('nobody.product.com');
  tollgate = down;
  now += 1_000;
  for (let i = 0; i < 10; i++) {
    assert.equal((await send('acme.product.com')).id, 'tenant_acme');
    assert.equal((await send('nobody.product.com')).status, 503);
  }
  assert.equal(asked.length, 4, 'an outage is not asked about by every request');
  assert.equal(warnings, 1);
  now += 599_999;
  assert.equal((await send('acme.product.com')).id, 'tenant_acme');
  now += 1;
  assert.equal((await send('acme.product.com')).status, 503);
  tollgate = working;
  now += 1_000;
  assert.equal((await send('acme.product.com')).id, 'tenant_acme');
});

test('while a Tollgate that hangs goes on, no request waits', async () => {
  await send('acme.product.com');
  tollgate = down;
  now += 1_000;
  await send('acme.product.com');
  let release;
  tollgate = () => new Promise((resolve) => { release = () => resolve(down()); });
  now += 1_000;
  assert.equal((await send('acme.product.com')).id, 'tenant_acme'); // else this test never ends
  assert.equal(asked.length, 3);
  release();
  await Promise.all(background);
});

test('after an outage old answers are not used', async () => {
  await send('acme.product.com');
  tollgate = down;
  now += 1_000;
  await send('acme.product.com');
  tollgate = () => is('tenant_acme', 'closed');
  now += 5_000;
  assert.equal((await send('acme.product.com')).status, 403);
});

test('an outage brings nothing back', async () => {
  await send('acme.product.com');
  tollgate = () => refuses(404, 'unknown_tenant');
  now += 1_000;
  assert.equal((await send('acme.product.com')).status, 404);
  tollgate = down;
  now += 1_000;
  assert.equal((await send('acme.product.com')).status, 503);
});

test('answers that are none', async () => {
  let cancelled = false;
  const endless = new ReadableStream({
    start: (to) => to.enqueue(new TextEncoder().encode('{"tenantId":"a","plan":null,"status":"active","flagsETag":"x"}')),
    pull: (to) => to.enqueue(new Uint8Array(4096).fill(0x20)),
    cancel: () => { cancelled = true; },
  });
  const answers = {
    garbage: new Response('<html>It works!</html>'),
    nothing: new Response(''),
    null: new Response('null'),
    'an empty object': Response.json({}),
    'a tenant of another type': Response.json({ tenantId: 7, status: 'active' }),
    'an id with a line break': is('a\r\nx-admin: 1'),
    'an id that a header would trim': is(' a'),
    'an id that is too long': is('a'.repeat(201)),
    'an id that is no UTF-8': new Response(new Uint8Array([...new TextEncoder().encode('{"status":"active","tenantId":"a'), 0xff, 0x22, 0x7d])),
    'a 404 of somebody else': new Response('404 page not found', { status: 404 }),
    'a 404 of another route': refuses(404, 'not_found'),
    'a key that is not accepted': refuses(401, 'unauthorized'),
    'too many': refuses(429, 'overloaded'),
    'unknown_tenant with another status': refuses(500, 'unknown_tenant'),
    'a redirect': new Response(null, { status: 302, headers: { location: 'http://evil.test/' } }),
    'more than an answer has': new Response(endless),
  };
  let i = 0;
  for (const [name, answer] of Object.entries(answers)) {
    tollgate = () => answer;
    assert.equal((await send(`t${i++}.product.com`)).status, 503, name);
  }
  assert.ok(cancelled);
  tollgate = () => { throw new TypeError('fetch failed'); };
  assert.equal((await send('acme.product.com')).status, 503);
});

test('a Tollgate that says nothing is not waited for', async (t) => {
  t.mock.method(AbortSignal, 'timeout', (ms) => {
    assert.equal(ms, 2_000);
    return AbortSignal.abort(new DOMException('in place of two seconds', 'TimeoutError'));
  });
  tollgate = (_, { signal }) => Promise.reject(signal.reason);
  assert.equal((await send('acme.product.com')).status, 503);
});

test('an id beyond ASCII goes as its UTF-8', async () => {
  tollgate = () => is('Müller & Söhne');
  const { id } = await send('acme.product.com');
  assert.equal(Buffer.from(id, 'latin1').toString('utf8'), 'Müller & Söhne');
});

test('made-up names are bounded and do not push out known ones', async () => {
  await send('acme.product.com');
  for (let i = 0; i <= 10_000; i++) await send(`no${i}.product.com`);
  const before = asked.length;
  await send('acme.product.com');
  await send('no10000.product.com');
  assert.equal(asked.length, before);
  await send('no0.product.com'); // it was forgotten
  assert.equal(asked.length, before + 1);

  const waiting = [];
  tollgate = (host) => new Promise((resolve) => waiting.push(() => resolve(working(host))));
  now += 1_000;
  const flood = Array.from({ length: 100 }, (_, i) => send(`more${i}.product.com`));
  const known = send('acme.product.com');
  assert.equal(waiting.length, 32 + 1);
  for (const release of waiting) release();
  assert.equal((await known).id, 'tenant_acme');
  assert.deepEqual(new Set((await Promise.all(flood)).map(({ status }) => status)), new Set([404, 503]));
});

test('the tenant that was used last is forgotten last', async () => {
  tollgate = () => is('tenant_any');
  await send('first.product.com');
  await send('second.product.com');
  for (let i = 2; i < 10_000; i++) await send(`t${i}.product.com`);
  await send('first.product.com');
  await send('one-more.product.com');
  asked = [];
  await send('first.product.com');
  await send('second.product.com');
  assert.deepEqual(asked, ['second.product.com']);
});

test('it runs everywhere but for files', () => {
  const runs = (path) => new RegExp(`^${config.matcher[0]}$`).test(path);
  for (const path of ['/', '/reports', '/api/x', '/_next/data/1/reports.json', '/favicon.icon', '/assetsx', '/x/assets/y', '/_next/imagex']) assert.ok(runs(path), path);
  for (const path of ['/_next/static/x.js', '/_next/image', '/assets/logo.png', '/favicon.ico']) assert.ok(!runs(path), path);
});
