import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { isOutage, reasonOf } from '../shared/plugin/errors.js'
import { keySpace, safeId } from '../shared/plugin/keys.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import type { RedisPort } from '../shared/redis/port.js'
import { FENCE_ERROR } from '../shared/redis/fence.js'
import { CircuitOpenError, guardRedis } from '../shared/redis/guard.js'
import { sendScript, type Script } from '../shared/redis/script.js'
import { FenceExhaustedError, StoreUnavailableError } from './errors.js'
import { vote, type QuorumResult } from './quorum.js'
import { acquireScript, extendScript, markDoneScript, releaseScript } from './scripts.js'
import type { ReleaseSubscription } from './release-subscription.js'
import type { AcquireResult, LockStore } from './store.js'

/**
 * How much longer than its lock a fence lives. Only a server's clock that was set back needs it, by at most this time:
 * otherwise the time alone makes the next token higher.
 */
const FENCE_EXTRA_MS = 3_600_000

interface RedisStoreOptions {
  /** One server or Cluster, or several independent servers. */
  nodes: readonly RedisPort[]
  prefix: string
  timeout: Milliseconds
  log: FastifyBaseLogger
  releases: ReleaseSubscription
  clock: Clock
}

interface AcquireReply {
  isAcquired: boolean
  /** The token; if the lock was not acquired, its remaining TTL in milliseconds. */
  value: number
  holder: unknown
}

/**
 * Holds locks in Redis: each method is one script on each node. On one node, waiters queue. By quorum each node would
 * have a queue of its own, so a release notifies all waiters, and they ask again at random times.
 */
export function createRedisStore ({ nodes, prefix, timeout, log, releases, clock }: RedisStoreOptions): LockStore {
  const guarded = nodes.map(client =>
    ({ client, guard: guardRedis(client, log, timeout, 'lock', clock, { isPatient: true }) }))
  const isQuorum = nodes.length > 1
  const space = (what: string) => keySpace(prefix, 'lock', what)
  const [held, fence, line, seen, done] = [space('held'), space('fence'), space('line'), space('seen'), space('done')]
  const { channel } = releases
  let isRefused = false

  /** Returns an error with its reason, and logs a refusal once. The circuit breaker logs outages. */
  function unavailable (errors: readonly unknown[]): Error {
    const reason = reasonOf(errors.find(error => !isOutage(error)) ?? errors[0])
    if (!isRefused && !errors.every(isOutage)) log.warn({ plugin: 'lock', reason }, 'lock: Redis refuses locks')
    isRefused ||= !errors.every(isOutage)
    // The client's error has the command's arguments, which are secret.
    return new StoreUnavailableError({ cause: new Error(reason) })
  }

  function noteAvailable (): void {
    if (isRefused) log.info({ plugin: 'lock' }, 'lock: Redis accepts locks again')
    isRefused = false
  }

  function verdictOf ({ verdict, errors }: QuorumResult<unknown>): boolean {
    if (verdict === undefined) throw unavailable(errors)
    return verdict
  }

  /** The keys of a resource share a hash tag. */
  const idOf = (resource: string) => `{${safeId(resource)}}`
  const doneKeyOf = (resource: string, tick: string) => `${done}${idOf(resource)}:${safeId(tick)}`
  const runOnAll = (
    script: Script, keys: string[], args: Array<string | number>, how: 'run' | 'runOnce' = 'run',
    onSent: (i: number, reply: Promise<unknown>) => void = () => {}
  ): Array<Promise<unknown>> =>
    guarded.map(({ client, guard }, i) => guard[how](() => {
      const reply = sendScript(client, script, keys, args, clock)
      onSent(i, reply)
      return reply
    }))

  const existsOnAll = (key: string) =>
    guarded.map(({ client, guard }) => guard.run(() => client.send<number>('exists', [key])))

  async function extend (resource: string, owner: string, ttl: Milliseconds, token: number): Promise<boolean> {
    const id = idOf(resource)
    const replies = runOnAll(extendScript, [held + id, fence + id], [owner, ttl, ttl + FENCE_EXTRA_MS, token])
    return verdictOf(await vote(replies, reply => reply === 1))
  }

  /** @param notified - the name to notify if no waiter is queued; '' for none */
  async function release (
    resource: string, owner: string, notified = isQuorum ? held + idOf(resource) : ''
  ): Promise<boolean> {
    const id = idOf(resource)
    const before = guarded.map(({ guard }) => guard.losses)
    const args = [owner, channel, notified]
    // The reply to a second release is 0, also if the client repeats the first one over its next connection.
    const replies = runOnAll(releaseScript, [held + id, line + id, seen + id], args, 'runOnce').map(async (sent, i) => {
      const reply = await sent
      if (reply !== 1 && guarded[i]?.guard.losses !== before[i]) {
        throw new Error('the connection was lost before the reply to the release')
      }
      return reply
    })
    return verdictOf(await vote(replies, reply => reply === 1))
  }

  /**
   * Releases a lock that may have been acquired although its reply was lost, or on too few nodes. The release bypasses
   * the circuit breaker: on the same connection it follows the attempt, however late that arrives.
   *
   * @param sent - the requests of the attempts, which over HTTP the release could overtake
   */
  function undo (
    resource: string, owner: string, attempts: ReadonlyArray<Promise<unknown>>,
    sent: ReadonlyArray<Promise<unknown> | undefined>
  ): void {
    const id = idOf(resource)
    nodes.forEach((client, i) => {
      attempts[i]?.then(reply => readReply(reply).isAcquired, (error: unknown) => !(error instanceof CircuitOpenError))
        .then(async mayBeAcquired => {
          if (!mayBeAcquired) return
          if (client.isHttp) await sent[i]?.catch(() => {})
          await sendScript(client, releaseScript, [held + id, line + id, seen + id], [owner, channel, ''], clock)
        })
        .catch(() => {})
    })
  }

  async function acquire (
    resource: string, owner: string, ttl: Milliseconds, queueTtl: Milliseconds
  ): Promise<AcquireResult> {
    const id = idOf(resource)
    const args = [owner, ttl, ttl + FENCE_EXTRA_MS, isQuorum ? 0 : queueTtl]
    const sent: Array<Promise<unknown>> = []
    const attempts = runOnAll(acquireScript, [held + id, fence + id, line + id, seen + id], args, 'run',
      (i, reply) => { sent[i] = reply })
    const replies = attempts.map(async reply => readReply(await reply))
    const { yes, no, errors, verdict, isQuorate } = await vote(replies, ({ isAcquired }) => isAcquired)
    if (verdict === true) {
      noteAvailable()
      return { kind: 'acquired', token: Math.max(...yes.map(({ value }) => value)) }
    }
    if (queueTtl > 0) releases.start()
    if (isQuorum || !isQuorate) undo(resource, owner, attempts, sent)
    if (!isQuorate) throw await isFenceExhausted(attempts) ? new FenceExhaustedError(fence + id) : unavailable(errors)
    noteAvailable()
    return {
      kind: 'locked',
      remaining: isHeldByOne(no, nodes.length) ? Math.min(...no.map(({ value }) => Math.max(value, 1))) : 0
    }
  }

  /** Writes the token to a majority before it is used, so that each later majority issues a higher one. */
  async function acquireByQuorum (
    resource: string, owner: string, ttl: Milliseconds, queueTtl: Milliseconds
  ): Promise<AcquireResult> {
    const startedAt = clock.monotonic()
    const result = await acquire(resource, owner, ttl, queueTtl)
    if (result.kind === 'locked' || await extend(resource, owner, ttl, result.token)) return result
    // The lock expired before this process read the replies: the caller asks again under the same id.
    if (clock.monotonic() - startedAt >= ttl) return result
    release(resource, owner, '').catch(() => {})
    return { kind: 'locked', remaining: 0 }
  }

  return {
    hasQueue: !isQuorum,
    acquire: isQuorum ? acquireByQuorum : acquire,
    extend,
    release: async (resource, owner) => await release(resource, owner),
    async isLocked (resource) {
      const replies = existsOnAll(held + idOf(resource))
      return verdictOf(await vote(replies, count => count === 1))
    },
    async markDone (resource, owner, tick, ttl) {
      const replies = runOnAll(markDoneScript, [held + idOf(resource), doneKeyOf(resource, tick)], [owner, ttl])
      return verdictOf(await vote(replies, reply => reply === 1))
    },
    async isDone (resource, tick) {
      const result = await vote(existsOnAll(doneKeyOf(resource, tick)), count => count === 1)
      // A record is written after the job, to a majority: one node of an incomplete vote that has it is enough.
      return result.verdict === undefined && result.yes.length > 0 ? true : verdictOf(result)
    },
    notificationName: (resource, owner) => isQuorum ? held + idOf(resource) : owner,
    close () {}
  }
}

/** Whether a node has no token above the stored one. Waits for all replies. */
async function isFenceExhausted (attempts: ReadonlyArray<Promise<unknown>>): Promise<boolean> {
  const settled = await Promise.allSettled(attempts)
  return settled.some(result => result.status === 'rejected' && reasonOf(result.reason).startsWith(FENCE_ERROR))
}

function readReply (reply: unknown): AcquireReply {
  const [acquired, value, holder]: unknown[] = Array.isArray(reply) ? reply : []
  return { isAcquired: acquired === 1, value: Number(value), holder }
}

/** Whether one holder has the majority. Otherwise several asked at once, and none of them has it. */
function isHeldByOne (refusals: readonly AcquireReply[], count: number): boolean {
  return refusals.some(({ holder }) => refusals.filter(other => other.holder === holder).length * 2 > count)
}
