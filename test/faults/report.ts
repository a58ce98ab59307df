import type { Fault } from './faults.js'
import type { Figures } from './judge.js'

const GOALS = `- There is no unhandled rejection, no crash, no 500, and no request without a response. Routes that need a session or a lock
  respond with 503 while it is unavailable: that is the policy, and counts as refused.
- A response takes at most the sum of the route's own time (5 ms if it reads its source), 150 ms for each plugin that it
  passes, and 50 ms. Products, changes, sessions and locks pass two plugins (limit and cache, limit and session, limit and
  lock), the limited route passes one.
- From 1 s after the fault began a response takes at most 50 ms more than the route's own time. If Redis itself is 50 ms
  late, its delay is added. If it is 500 ms late, sessions and locks wait for it.
- Each instance reads sessions and serves hits again within 3 s of the fault's end.
- No window exceeds its limit while Redis is reachable.
- No lock has two holders while Redis is reachable.
- No session that Redis has stored is lost. A server that was restarted empty has stored none.
- No stale response is served later than 100 ms after a change was acknowledged. Until then another instance may not have
  received the invalidation.
- Each key has a TTL.`

/** docs/operations/reliability.md. */
export function report (rows: ReadonlyArray<[Fault, Figures]>, hold: number): string {
  return `# Reliability: what faults do to an app

Written by \`npm run test:faults\`, from its last run. Two instances of one app run in processes of their own, each
with all plugins (connection, health, rate limit, session, cache, idempotency, events, lock, metrics).
They get about 160 requests a second, sent whether or not earlier ones have a response:

- a cached response, a cached value, and a change that invalidates both;
- a page of one of 20 users who are logged in;
- a route with a limit, and a section that a lock guards.

The fault begins after 1.5 s, and lasts ${hold} s unless it ends by itself. The run ends 4 s after the
fault. Redis, Cluster (3 masters, 3 replicas), Sentinel (3, with 3 servers) and app run on one machine.

## The faults

| fault | what happens |
|---|---|
${rows.map(([{ name, what }]) => `| ${name} | ${what} |`).join('\n')}

## Results

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
