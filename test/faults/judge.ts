// The result of a run, and the goals that it misses.
import type { Course } from './drive.js'
import type { Fault } from './faults.js'
import type { Kind, Sample } from './load.js'
import { SOURCE_MS } from './shop.js'

/** The plugins' `timeout`, added up over the plugins of a request. */
const TIMEOUT_MS = 150
const PASSES: Record<Kind, number> = { product: 2, value: 2, put: 2, me: 2, limited: 1, locked: 2 }
const OWN_MS: Record<Kind, number> = { product: SOURCE_MS, value: SOURCE_MS, put: SOURCE_MS, me: 0, limited: 0, locked: 4 * SOURCE_MS }
/** The number of replies that a route with Redis waits for: reading a session, acquiring and releasing a lock. */
const REPLIES: Record<Kind, number> = { product: 0, value: 0, put: 0, me: 1, limited: 0, locked: 2 }
const GRACE_MS = 50
/** A fault counts as noticed from then on. */
const NOTICED_MS = 1000
const RECOVERY_MS = 3000
/** How long an instance may serve what another one has invalidated. */
const STALE_MS = 100
const LIMIT = { max: 10, windowMs: 1000 }

export interface Figures {
  requests: number
  failed: number
  /** 503s of routes that need a session or a lock. */
  refused: number
  /** How often two holders were in one lock. */
  crowded: number
  slowest: number
  slowestNoticed: number
  noticed: number | undefined
  recovered: number | undefined
  /** By how many requests the fullest window exceeded its limit. */
  exceeded: number
  sessionsLost: number
  staleSoon: number
  staleLater: number
  keysWithoutTtl: number
  missed: string[]
  /** Only goals about time are missed, for which a busy machine may be the reason. */
  isTimeAlone: boolean
  /** A goal that has nothing to do with time is missed. */
  isBroken: boolean
}

/** The routes that respond with 503 without Redis. */
const NEEDS_REDIS: ReadonlySet<Kind> = new Set(['me', 'locked'])

type Miss = [isMissed: boolean, text: string]

export function judge (fault: Fault, course: Course): Figures {
  const { samples, beganAt, endedAt, noticedAt, recoveredAt, problems } = course
  const isFailed = ({ status, kind }: Sample) => status === 0 || (status >= 500 && !(status === 503 && NEEDS_REDIS.has(kind)))
  const inFault = samples.filter(({ at }) => at >= beganAt && at < endedAt)
  const inNoticed = inFault.filter(({ at }) => at >= beganAt + NOTICED_MS)
  const stale = samples.filter(({ staleMs }) => staleMs > 0)
  const figures = {
    requests: samples.length,
    failed: samples.filter(isFailed).length,
    refused: samples.filter(({ status, kind }) => status === 503 && NEEDS_REDIS.has(kind)).length,
    // A server that loses its locks grants them to others: fencing tokens exist for that.
    crowded: fault.isReachable ? course.crowded : 0,
    slowest: slowestOf(inFault),
    slowestNoticed: slowestOf(inNoticed),
    noticed: noticedAt && noticedAt - beganAt,
    recovered: recoveredAt && Math.max(0, recoveredAt - endedAt),
    exceeded: exceededBy(reachable(fault, course)),
    sessionsLost: fault.losesData ? 0 : course.loggedOut,
    staleSoon: stale.filter(({ staleMs }) => staleMs <= STALE_MS).length,
    staleLater: stale.filter(({ staleMs }) => staleMs > STALE_MS).length,
    keysWithoutTtl: course.keysWithoutTtl.length
  }
  const added = fault.adds === undefined ? 0 : TIMEOUT_MS
  const ownOf = (kind: Kind) => OWN_MS[kind] + REPLIES[kind] * (fault.lateMs ?? 0)
  const late = samples.filter(({ at, ms, kind }) => at >= beganAt && ms > ownOf(kind) + PASSES[kind] * TIMEOUT_MS + GRACE_MS)
  const lateNoticed = inNoticed.filter(({ ms, kind }) => ms > ownOf(kind) + PASSES[kind] * added + GRACE_MS)
  const timeMisses: Miss[] = [
    [late.length > 0, `${late.length} answers later than the time-outs allow (${counted(late)})`],
    [lateNoticed.length > 0, `time was added to ${lateNoticed.length} answers once the fault was noticed (${counted(lateNoticed)})`],
    [figures.recovered === undefined || figures.recovered > RECOVERY_MS, 'not recovered within 3 s']
  ]
  const misses: Miss[] = [
    [problems.length > 0, `${problems.length} problems: ${[...new Set(problems)].slice(0, 3).join('; ')}`],
    [figures.failed > 0, `${figures.failed} requests failed (${counted(samples.filter(isFailed))})`],
    [figures.exceeded > 0, `a limit was exceeded by ${figures.exceeded} while Redis was reachable`],
    [figures.crowded > 0, `${figures.crowded} times two were in one lock`],
    [figures.sessionsLost > 0, `${figures.sessionsLost} sessions lost`],
    [figures.staleLater > 0, `${figures.staleLater} stale answers, up to ${Math.round(Math.max(...stale.map(({ staleMs }) => staleMs)))} ms after the change was acknowledged (${counted(stale)})`],
    [figures.keysWithoutTtl > 0, `keys without a TTL: ${course.keysWithoutTtl.slice(0, 3).join(', ')}`]
  ]
  const textsOf = (some: Miss[]) => some.filter(([isMissed]) => isMissed).map(([, text]) => text)
  const isBroken = problems.length > 0 || figures.failed > 0 || figures.sessionsLost > 0 || figures.keysWithoutTtl > 0
  return { ...figures, isBroken, missed: [...textsOf(misses), ...textsOf(timeMisses)], isTimeAlone: textsOf(misses).length === 0 }
}

function slowestOf (samples: readonly Sample[]): number {
  return Math.round(Math.max(0, ...samples.map(({ ms }) => ms)))
}

/** Formats counts: `3 me 503, up to 12 ms`. */
function counted (samples: readonly Sample[]): string {
  const nameOf = ({ kind, status }: Sample) => `${kind} ${status}`
  return [...new Set(samples.map(nameOf))].map(name => {
    const group = samples.filter(sample => nameOf(sample) === name)
    return `${group.length} ${name}, up to ${slowestOf(group)} ms`
  }).join('; ')
}

/** The periods in which Redis decides. */
function reachable (fault: Fault, { samples, beganAt, recoveredAt = Infinity }: Course): Sample[][] {
  const decided = samples.filter(({ kind, status }) => kind === 'limited' && status === 200)
  if (fault.isReachable) return [decided]
  return [decided.filter(({ at, ms }) => at + ms < beganAt), decided.filter(({ at }) => at > recoveredAt)]
}

/** The moment within a request at which it was counted is unknown, so only requests that lie completely in a window count. */
function exceededBy (stretches: Sample[][]): number {
  const counts = stretches.flatMap(samples => samples.map(({ at: from }) =>
    samples.filter(({ at, ms }) => at >= from && at + ms <= from + LIMIT.windowMs).length))
  return Math.max(0, ...counts.map(count => count - LIMIT.max))
}
