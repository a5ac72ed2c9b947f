// Computes every line of all invoices again, from the raw traces and the plans alone, in rational numbers and with a
// calendar of its own, and fails at the first difference. It shares nothing with Tollgate but the rules that docs/money.md states.
//
//   node recompute.mjs scenario.json
import {readFileSync} from 'node:fs'

// --- rational numbers: [numerator, denominator > 0]
const gcd = (a, b) => { while (b) [a, b] = [b, a % b]; return a < 0n ? -a : a }
const rat = (n, d = 1n) => { if (d < 0n) [n, d] = [-n, -d]; const g = gcd(n, d) || 1n; return [n / g, d / g] }
const parse = (text) => {
  const [, sign, whole, fraction = ''] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(String(text))
  return rat(BigInt(sign + whole + fraction), 10n ** BigInt(fraction.length))
}
const add = (a, b) => rat(a[0] * b[1] + b[0] * a[1], a[1] * b[1])
const sub = (a, b) => rat(a[0] * b[1] - b[0] * a[1], a[1] * b[1])
const mul = (a, b) => rat(a[0] * b[0], a[1] * b[1])
const div = (a, b) => rat(a[0] * b[1], a[1] * b[0])
const cmp = (a, b) => { const d = a[0] * b[1] - b[0] * a[1]; return d < 0n ? -1 : d > 0n ? 1 : 0 }
const least = (a, b) => (cmp(a, b) < 0 ? a : b)
const most = (a, b) => (cmp(a, b) < 0 ? b : a)
const zero = rat(0n)
const whole = (r) => r[1] === 1n
const ceil = (r) => { const q = r[0] / r[1]; return rat(whole(r) || r[0] < 0n ? q : q + 1n) }
// To hundredths, half to even.
const cents = (r) => {
  const n = r[0] * 100n
  let q = n / r[1], rest = n % r[1]
  if (rest < 0n) { q -= 1n; rest += r[1] }
  if (rest * 2n > r[1] || (rest * 2n === r[1] && q % 2n !== 0n)) q += 1n
  return rat(q, 100n)
}
const show = (r) => `${r[0]}/${r[1]}`

// --- time: microseconds since 1970, as BigInt
const micros = (text) => {
  const [, y, mo, d, h, mi, s, f = '', offset] = /^(\d+)-(\d+)-(\d+)[T ](\d+):(\d+):(\d+)(?:\.(\d+))?(Z?)$/.exec(text)
  if (offset === undefined) throw new Error(`a time: ${text}`)
  return BigInt(Date.UTC(+y, +mo - 1, +d, +h, +mi, +s)) * 1000n + BigInt((f + '000000').slice(0, 6))
}
const clocks = {}
const local = (zone, at) => {
  clocks[zone] ??= new Intl.DateTimeFormat('en-CA', {timeZone: zone, hourCycle: 'h23', year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit'})
  const p = Object.fromEntries(clocks[zone].formatToParts(Number(at / 1000n)).map((x) => [x.type, +x.value]))
  return Date.UTC(p.year, p.month - 1, p.day, p.hour, p.minute)
}
// The first quarter of an hour at which the zone's clock reads the day's midnight or later; a day that a month lacks is its last.
const midnight = (zone, year, month, day) => {
  const last = new Date(Date.UTC(year, month + 1, 0)).getUTCDate()
  const wanted = Date.UTC(year, month, Math.min(day, last))
  for (let t = BigInt(wanted) - 18n * 3600_000n; ; t += 900_000n) if (local(zone, t * 1000n) >= wanted) return t * 1000n
}
const cycleOf = (zone, day, at) => {
  const now = new Date(local(zone, at))
  let start = null
  for (let n = -2; ; n++) {
    const t = midnight(zone, now.getUTCFullYear(), now.getUTCMonth() + n, day)
    if (t > at) return [start, t]
    start = t
  }
}

// --- plans, usage and invoices
const scenario = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const problems = []
let lines = 0

for (const tenant of scenario.tenants) {
  const rows = readFileSync(tenant.trace, 'utf8').trim().split(/\r?\n/).slice(1).map((row) => {
    const [at, input, output] = row.split(',')
    return {at: micros(at), input: rat(BigInt(input)), output: rat(BigInt(output)), after: 0}
  })
  for (const e of tenant.extra) rows.push({at: micros(e.at), input: parse(e.input), output: parse(e.output), after: e.after})
  const value = {input_tokens: (r) => r.input, output_tokens: (r) => r.output, tokens: (r) => add(r.input, r.output)}
  const begin = micros(tenant.plans[0].from)

  // What was agreed, when so many invoices were finalised.
  const agreed = (known) => tenant.plans.filter((p) => p.after <= known)
  const segments = (start, end, known) => {
    const plans = agreed(known)
    return plans.map((p, i) => ({
      plan: scenario.plans[p.plan], version: `${p.plan}@1`,
      start: micros(p.from) > start ? micros(p.from) : start,
      end: i + 1 < plans.length && micros(plans[i + 1].from) < end ? micros(plans[i + 1].from) : end,
    })).filter((s) => s.start < s.end)
  }
  const price = (p, q) => {
    q = sub(q, parse(p.included ?? '0'))
    if (cmp(q, zero) <= 0) return zero
    switch (p.model) {
      case 'per_unit': return mul(q, parse(p.unit))
      case 'package': return mul(ceil(div(q, parse(p.size))), parse(p.unit))
      case 'percentage': return mul(q, div(parse(p.percent), rat(100n)))
      case 'volume': return mul(q, parse(p.tiers.find((t) => !t.upTo || cmp(q, parse(t.upTo)) <= 0).unit))
      case 'graduated': {
        let sum = zero, from = zero
        for (const t of p.tiers) {
          const to = t.upTo ? least(q, parse(t.upTo)) : q
          if (cmp(to, from) > 0) { sum = add(sum, mul(sub(to, from), parse(t.unit))); from = to }
        }
        return sum
      }
    }
    throw new Error(`a price: ${p.model}`)
  }
  // Everything that is owed for a period, when so many invoices were finalised.
  const charges = (period, known) => {
    const [start, end, cycleStart, cycleEnd] = period
    const owed = []
    for (const s of segments(start, end, known)) {
      const share = (amount) => cents(mul(parse(amount), rat(s.end - s.start, cycleEnd - cycleStart)))
      const line = (kind, name, quantity, events, amount, ahead = false) => owed.push({kind, price: name, version: s.version, start: s.start, end: s.end, quantity, events, amount, ahead})
      const first = owed.length
      for (const p of s.plan.prices.filter((x) => x.model !== 'flat')) {
        let quantity = zero, events = 0
        for (const r of rows) if (r.after <= known && r.at >= s.start && r.at < s.end) { quantity = add(quantity, value[p.meter](r)); events++ }
        line('usage', p.key, quantity, events, cents(price(p, quantity)))
        Object.assign(owed.at(-1), {exact: price(p, quantity), included: least(parse(p.included ?? '0'), quantity)})
      }
      for (const p of s.plan.prices.filter((x) => x.model === 'flat')) line('fee', p.key, rat(1n), 0, share(p.amount), !p.arrears)
      const sum = owed.slice(first).reduce((a, l) => add(a, l.amount), zero)
      if (s.plan.minimum && cmp(sum, share(s.plan.minimum)) < 0) line('minimum', 'minimum', zero, 0, sub(share(s.plan.minimum), sum))
      else if (s.plan.spendCap && cmp(sum, share(s.plan.spendCap)) > 0) line('spend_cap', 'spend_cap', zero, 0, sub(share(s.plan.spendCap), sum))
    }
    return owed
  }
  const periodAt = (start) => {
    const [from, to] = cycleOf(tenant.zone, tenant.day, start)
    return [start, to, from, to]
  }

  const done = [] // invoices, with the lines that were on them
  const periods = []
  let left = tenant.grants.reduce((a, g) => add(a, parse(g.amount)), zero)
  for (const [n, inv] of tenant.invoices.entries()) {
    const where = `${tenant.id}, invoice ${n + 1}`
    const fail = (text) => problems.push(`${where}: ${text}`)
    const counts = (i) => !(tenant.void && tenant.void.invoice === i && tenant.void.after <= n)
    if (tenant.void && tenant.void.after === n) left = add(left, parse(tenant.invoices[tenant.void.invoice].credits.amount))
    const invoiced = (period, name) => {
      let amount = zero, quantity = zero
      done.forEach((list, i) => counts(i) && list.forEach((l) => {
        if (l.price === name && l.start >= period[0] && l.start < period[1]) { amount = add(amount, l.amount); quantity = add(quantity, l.quantity) }
      }))
      return [amount, quantity]
    }
    const adjust = (period, owed) => {
      const names = new Set(owed.map((l) => l.price))
      done.forEach((list) => list.forEach((l) => l.start >= period[0] && l.start < period[1] && names.add(l.price)))
      return [...names].sort().flatMap((name) => {
        const mine = owed.filter((l) => l.price === name)
        const [amount, quantity] = invoiced(period, name)
        const missing = sub(mine.reduce((a, l) => add(a, l.amount), zero), amount)
        if (cmp(missing, zero) === 0) return []
        return [{kind: 'adjustment', price: name, version: owed.at(-1)?.version ?? '', start: period[0], end: period[1], events: 0,
          quantity: sub(mine.reduce((a, l) => add(a, l.quantity), zero), quantity), amount: missing}]
      })
    }
    // Fees that were invoiced ahead are there again only by what they are off.
    const current = (period, owed) => {
      const before = owed.filter((l) => l.kind === 'fee' && cmp(invoiced(period, l.price)[1], zero) !== 0)
      return [...owed.filter((l) => !before.includes(l)), ...(before.length ? adjust(period, before) : [])]
    }

    let start = begin
    if (n > 0) start = micros(tenant.invoices[n - 1].periodEnd)
    const period = periodAt(start)
    const opening = n === 0 && charges(period, n).some((l) => l.ahead)
    const boundary = opening ? start : period[1]
    if (micros(inv.periodStart) !== start || micros(inv.periodEnd) !== boundary) fail(`period ${inv.periodStart} to ${inv.periodEnd} instead of ${start} to ${boundary}`)

    const expected = []
    for (const p of periods) expected.push(...adjust(p, charges(p, n)))
    if (!opening) expected.push(...current(period, charges(period, n)))
    const next = periodAt(boundary)
    expected.push(...current(next, charges(next, n).filter((l) => l.ahead)))
    if (!opening) periods.push(period)
    done.push(expected)

    const key = (l) => `${l.kind} ${l.price} ${l.version} ${l.start} ${l.end}`
    const wanted = new Map(expected.map((l) => [key(l), l]))
    for (const l of inv.lines) {
      lines++
      const k = key({kind: l.kind, price: l.price, version: l.planVersion, start: micros(l.periodStart), end: micros(l.periodEnd)})
      const w = wanted.get(k)
      if (!w) { fail(`a line that is not owed: ${k}`); continue }
      wanted.delete(k)
      if (cmp(parse(l.quantity), w.quantity) !== 0) fail(`${k}: quantity ${l.quantity} instead of ${show(w.quantity)}`)
      if (cmp(parse(l.included), w.included ?? zero) !== 0) fail(`${k}: included ${l.included} instead of ${show(w.included ?? zero)}`)
      if (l.events !== w.events) fail(`${k}: ${l.events} events instead of ${w.events}`)
      if (cmp(parse(l.amount.amount), w.amount) !== 0) fail(`${k}: amount ${l.amount.amount} instead of ${show(w.amount)}`)
      if (l.tiers.length) {
        const tiers = l.tiers.reduce((a, t) => add(a, mul(parse(t.quantity), parse(t.unit))), zero)
        if (!w.exact || cmp(tiers, w.exact) !== 0) fail(`${k}: its tiers sum to ${show(tiers)} instead of ${show(w.exact ?? zero)}`)
        for (const t of l.tiers) if (cmp(parse(t.amount), mul(parse(t.quantity), parse(t.unit))) !== 0) fail(`${k}: tier ${t.amount} instead of ${t.quantity} times ${t.unit}`)
      }
    }
    for (const k of wanted.keys()) fail(`a line is missing: ${k}`)
    const subtotal = expected.reduce((a, l) => add(a, l.amount), zero)
    const drawn = least(left, most(subtotal, zero))
    left = sub(left, drawn)
    if (cmp(parse(inv.subtotal.amount), subtotal) !== 0) fail(`subtotal ${inv.subtotal.amount} instead of ${show(subtotal)}`)
    if (cmp(parse(inv.credits.amount), drawn) !== 0) fail(`credits ${inv.credits.amount} instead of ${show(drawn)}`)
    if (cmp(parse(inv.total.amount), sub(subtotal, drawn)) !== 0) fail(`total ${inv.total.amount} instead of ${show(sub(subtotal, drawn))}`)
  }
  console.log(`${tenant.id}: ${rows.length} events, ${tenant.invoices.length} invoices: ${tenant.invoices.map((i) => `${i.total.amount} ${i.total.currency}`).join(', ')}`)
}
console.log(`${lines} lines`)
if (problems.length) {
  console.error(problems.join('\n'))
  process.exit(1)
}
