import type { Fault } from './faults.js'
import type { Figures } from './judge.js'

const GOALS = `- No unhandled rejection, no crash, no 500, and no request without an answer. Routes that need a session or a lock answer 503 while it
  cannot be had: that is the policy, and counts as refused.
- No answer takes longer than the route's own time (5 ms where it asks its source), 150 ms for each plugin that it passes (two for
  products, changes, sessions and locks: limit and cache, limit and session, limit and lock; one for the limited route), and 50 ms. From 1 s after the fault
  began nothing is added but these 50 ms; where Redis itself is 50 ms late, its time is, and where it is 500 ms late, sessions and locks wait for it.
- Recovered within 3 s of the fault's end: each instance answers sessions and serves hits again.
- Never more than the limit in any window while Redis was reachable.
- Never two in one lock while Redis was reachable.
- No session lost that Redis kept. A server that was started again empty has kept none.
- No stale answer later than 100 ms after a change was acknowledged: for as long another instance may not have heard.
- No key without a TTL.`

/** docs/reliability.md. */
export function report (rows: ReadonlyArray<[Fault, Figures]>, hold: number): string {
  return `# Reliability: what faults do to an app

Written by \`npm run test:faults\`, from its last run. Two instances of one app in processes of their own, each with all plugins
(connection, health, rate limit, session, cache, idempotency, events, lock, metrics), are driven with about 160 requests a second, sent whether or not earlier ones
are answered: a cached response, a cached value, a change that invalidates both, a page of one of 20 users who are logged in,
a route with a limit, and a section that a lock guards. After 1.5 s the fault comes, for ${hold} s where it does not end by itself; 4 s after its end it is over.
Redis, Cluster (3 masters, 3 replicas), Sentinel (3, with 3 servers) and app run on one machine.

## The faults

| fault | what happens |
|---|---|
${rows.map(([{ name, what }]) => `| ${name} | ${what} |`).join('\n')}

## What came of them

| fault | requests | failed | 503, sessions and locks | slowest | once noticed | noticed after | recovered after | over the limit | two in a lock | sessions lost | stale ≤ 100 ms | stale later | goals |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
${rows.map(([{ name }, figures]) => `| ${[name, ...cells(figures)].join(' | ')} |`).join('\n')}

"Slowest" is the slowest response to a request that was sent during the fault, and "once noticed" the slowest one from its second
second on. A fault is noticed when the health details of an instance report it; the plugins heal other faults before that.
"Recovered" counts from the end of the fault.

## The goals

${GOALS}

${misses(rows)}
`
}

function cells ({ requests, failed, refused, slowest, slowestNoticed, noticed, recovered, exceeded, crowded, sessionsLost, staleSoon, staleLater, missed }: Figures): string[] {
  const time = (ms: number | undefined, none: string) => ms === undefined ? none : `${Math.round(ms)} ms`
  return [
    requests.toLocaleString('en'), String(failed), String(refused), time(slowest, ''), time(slowestNoticed, ''), time(noticed, 'not'), time(recovered, 'not'),
    String(exceeded), String(crowded), String(sessionsLost), String(staleSoon), String(staleLater), missed.length === 0 ? 'all met' : `${missed.length} missed`
  ]
}

function misses (rows: ReadonlyArray<[Fault, Figures]>): string {
  const missing = rows.filter(([, { missed }]) => missed.length > 0)
  if (missing.length === 0) return 'All rows meet all of them.'
  return `These are missed:\n\n${missing.map(([{ name }, { missed }]) => `- ${name}: ${missed.join('. ')}.`).join('\n')}`
}
