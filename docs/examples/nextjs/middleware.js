// Finds the tenant of each request to a Next.js app by asking Tollgate. The app reads it from two request headers, which a
// client cannot set: x-tenant-id, and x-tenant-status (active or suspended). Requests that lead to no tenant end here.
//
// Copy it to the root of the app, or to its src folder; from Next.js 16 on its name is proxy.js. It needs the environment
// variables TOLLGATE_URL and TOLLGATE_SERVICE_KEY (an API key of kind service).

import { NextResponse } from 'next/server';

/**
 * Where it runs: everywhere but for files that are the same for all tenants. Keep those in public/assets, above all images for
 * next/image, which fetches them from the app without saying a host. A route that is left out here gets x-tenant-id as the
 * client sent it, so leave out files only.
 */
export const config = { matcher: ['/((?!_next/static/|_next/image$|assets/|favicon\\.ico$).*)'] };

/**
 * @typedef {{id: string, status: 'active' | 'suspended' | 'closed'}} Tenant
 * @typedef {{tenant: Tenant, asked: number, retry: number}} Answer `asked` is from before the question; until `retry` it is not asked again
 * @typedef {{code: keyof typeof refusals, until: number}} Refusal
 */

// Milliseconds. Tollgate allows a second for its answers; a known tenant stands in for ten minutes while Tollgate is away.
const maxAge = 1_000;
const staleFor = 600_000;
const timeout = 2_000;
const pause = 1_000; // after a question that failed

// Bounds: names that are remembered, of each kind; questions under way, of each kind; bytes of an answer.
const mostNames = 10_000;
const mostAsked = 32;
const maxAnswer = 65_536;

/** @type {Map<string, Answer>} Tenants by host, the one that was used last in the end. */
const known = new Map();
/** @type {Map<string, Refusal>} Hosts that lead nowhere. Apart, so that made-up names do not push out known ones. */
const others = new Map();
/** @type {Map<string, Promise<Tenant | keyof typeof refusals>>} One question about a host at a time. */
const flights = new Map();
const underWay = { known: 0, others: 0 };

const refusals = {
  unknown_tenant: { status: 404, title: 'There is no such workspace' },
  tenant_conflict: { status: 400, title: 'The request names different workspaces' },
  tenant_closed: { status: 403, title: 'This workspace is closed' },
  tenant_unavailable: { status: 503, title: 'The workspace cannot be found out now' },
};

/**
 * @param {import('next/server').NextRequest} request
 * @param {import('next/server').NextFetchEvent} event
 */
export default async function middleware(request, event) {
  const sent = hostOf(request.headers);
  if (sent === null) return refuse('tenant_conflict');
  const host = canonicalHost(sent);
  if (host === null) return refuse('unknown_tenant');
  const tenant = await find(host, event);
  if (typeof tenant === 'string') return refuse(tenant);
  if (tenant.status === 'closed') return refuse('tenant_closed');

  const headers = new Headers(request.headers);
  for (const name of [...headers.keys()]) {
    // Some servers that the app may pass the request on to take an underscore for a hyphen.
    if (['x-tenant-id', 'x-tenant-status'].includes(name.replaceAll('_', '-'))) headers.delete(name);
  }
  headers.set('x-tenant-id', inHeader(tenant.id));
  headers.set('x-tenant-status', tenant.status);
  return NextResponse.next({ request: { headers } });
}

/**
 * The host that the client asked for; null where a proxy names more than one. X-Forwarded-Host is believed only where it is
 * said that the app is behind a proxy that always sets it, and cannot be reached otherwise: who the peer is, is not known here.
 * @param {Headers} headers
 */
function hostOf(headers) {
  const forwarded = process.env.TOLLGATE_TRUST_FORWARDED_HOST === '1' ? headers.get('x-forwarded-host') : null;
  if (forwarded === null) return headers.get('host') ?? '';
  return forwarded.includes(',') ? null : forwarded;
}

/**
 * The form in which a host is asked about and kept: lower case, without port and one trailing dot; null for what is no name
 * of a host. Clients send internationalised names in ASCII, so a letter beyond it is an attempt to be taken for another name.
 * @param {string} sent
 */
function canonicalHost(sent) {
  if (sent.length > 260 || !/^[A-Za-z0-9.-]+(:\d{0,5})?$/.test(sent)) return null;
  const [name, port] = sent.split(':');
  const host = name.replace(/\.$/, '').toLowerCase();
  if (host.length > 253 || Number(port ?? 0) > 65_535) return null;
  return host.split('.').every((label) => label.length >= 1 && label.length <= 63) ? host : null;
}

/**
 * Answers from memory where that is new enough. A busy host is asked about ahead of time, in the background, so that no
 * request waits; so is one of which a question failed just now.
 * @param {string} host
 * @param {import('next/server').NextFetchEvent} event
 * @returns {Promise<Tenant | keyof typeof refusals>}
 */
async function find(host, event) {
  const now = Date.now();
  const answer = recall(known, host);
  if (answer && now - answer.asked < maxAge + staleFor) {
    const age = now - answer.asked;
    if (age < maxAge / 2 || now < answer.retry) return answer.tenant;
    const flight = ask(host);
    if (age < maxAge || now < answer.retry + pause + timeout) {
      event.waitUntil(flight);
      return answer.tenant;
    }
    return flight;
  }
  const refusal = recall(others, host);
  return refusal && now < refusal.until ? refusal.code : ask(host);
}

/**
 * Asks Tollgate, once at a time; never throws. Requests share the answer, so it does not depend on one that may go away.
 * @param {string} host
 */
function ask(host) {
  let flight = flights.get(host);
  if (!flight) {
    flight = learn(host).finally(() => flights.delete(host));
    flights.set(host, flight);
  }
  return flight;
}

/**
 * @param {string} host
 * @returns {Promise<Tenant | keyof typeof refusals>}
 */
async function learn(host) {
  const asked = Date.now();
  const kind = known.has(host) ? 'known' : 'others';
  try {
    if (underWay[kind] >= mostAsked) throw new Error(`more than ${mostAsked} questions are under way`);
    underWay[kind]++;
    const answer = await resolve(host).finally(() => underWay[kind]--);
    if (typeof answer === 'string') {
      known.delete(host);
      remember(others, host, { code: answer, until: asked + maxAge });
    } else {
      remember(known, host, { tenant: answer, asked, retry: 0 });
    }
    return answer;
  } catch (error) {
    const now = Date.now();
    tell(error, now);
    const answer = known.get(host);
    if (answer && now - answer.asked < maxAge + staleFor) {
      answer.retry = now + pause;
      return answer.tenant;
    }
    known.delete(host);
    remember(others, host, { code: 'tenant_unavailable', until: now + pause });
    return 'tenant_unavailable';
  }
}

/**
 * GET /v1/resolve. Whatever is not as agreed is thrown: a 404 without the code is of somebody else, not of Tollgate.
 * @param {string} host
 * @returns {Promise<Tenant | 'unknown_tenant' | 'tenant_conflict'>}
 */
async function resolve(host) {
  const base = (process.env.TOLLGATE_URL ?? '').replace(/\/+$/, '');
  const answer = await fetch(`${base}/v1/resolve?host=${encodeURIComponent(host)}`, {
    headers: { authorization: `Bearer ${process.env.TOLLGATE_SERVICE_KEY}`, accept: 'application/json, application/problem+json' },
    cache: 'no-store',
    redirect: 'manual', // the key is for Tollgate alone
    signal: AbortSignal.timeout(timeout),
  });
  const body = JSON.parse(await text(answer));
  if (answer.status === 404 && body?.code === 'unknown_tenant') return 'unknown_tenant';
  if (answer.status === 400 && body?.code === 'tenant_conflict') return 'tenant_conflict';
  if (answer.status !== 200) throw new Error(`Tollgate answered with status ${answer.status}`);
  const { tenantId: id, status } = body ?? {};
  if (typeof id !== 'string' || id === '' || id !== id.trim() || [...id].length > 200 || /[\p{C}\p{Zl}\p{Zp}\ufffd]/u.test(id)) {
    throw new Error("Tollgate's answer has a tenantId that no header carries");
  }
  if (!['active', 'suspended', 'closed'].includes(status)) throw new Error("Tollgate's answer has no status that is known");
  return { id, status };
}

/**
 * Reads an answer, and no more than an answer has.
 * @param {Response} answer
 */
async function text(answer) {
  let read = 0;
  let all = '';
  const decoder = new TextDecoder();
  const reader = answer.body?.getReader();
  for (let part = await reader?.read(); part && !part.done; part = await reader?.read()) {
    read += part.value.byteLength;
    if (read > maxAnswer) {
      await reader?.cancel();
      throw new Error(`Tollgate's answer has more than ${maxAnswer} bytes`);
    }
    all += decoder.decode(part.value, { stream: true });
  }
  return all + decoder.decode();
}

/**
 * A header has bytes, and Headers wants one character for each: an id beyond ASCII goes as its UTF-8. Passed on to Tollgate as
 * it is, it is right; to show it, decode it.
 * @param {string} id
 */
function inHeader(id) {
  return String.fromCharCode(...new TextEncoder().encode(id));
}

/**
 * @template V
 * @param {Map<string, V>} names
 * @param {string} name
 */
function recall(names, name) {
  const value = names.get(name);
  if (value !== undefined) remember(names, name, value); // in the end: it was used last
  return value;
}

/**
 * @template V
 * @param {Map<string, V>} names
 * @param {string} name
 * @param {V} value
 */
function remember(names, name, value) {
  names.delete(name);
  names.set(name, value);
  if (names.size > mostNames) names.delete(/** @type {string} */ (names.keys().next().value));
}

let told = 0;

/**
 * Tells the log, at most every ten seconds.
 * @param {unknown} error
 * @param {number} now
 */
function tell(error, now) {
  if (now - told < 10_000) return;
  told = now;
  console.warn('Tollgate does not say which tenants requests are about; known ones stand in for a while:', error);
}

/** @param {keyof typeof refusals} code */
function refuse(code) {
  const { status, title } = refusals[code];
  /** @type {Record<string, string>} */
  const headers = { 'content-type': 'application/problem+json', 'cache-control': 'no-store' }; // another answer in a second
  if (status === 503) headers['retry-after'] = '1'; // seconds
  return new Response(JSON.stringify({ type: `urn:tollgate:problem:${code}`, title, status, code }), { status, headers });
}
