import type { FastifyBaseLogger } from 'fastify'
import { databaseChannel, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { isOutage, reasonOf } from '../shared/plugin/errors.js'
import { subscribeToChannel, type ChannelSubscription } from '../shared/redis/channel-subscription.js'
import { FENCE_ERROR } from '../shared/redis/fence.js'
import { CircuitOpenError, guardRedis } from '../shared/redis/guard.js'
import { keySpace, safeId } from '../shared/plugin/keys.js'
import { runScript, type Script } from '../shared/redis/script.js'
import { FenceExhaustedError, StoreUnavailableError } from './errors.js'
import { vote, type QuorumResult } from './quorum.js'
import { extendScript, releaseScript, takeScript } from './scripts.js'
import type { AcquireResult, ReleaseListener, LockStore } from './store.js'

/**
 * How much longer than its lock a fence lives. It is needed only where the server's clock was set back, by no more than this:
 * otherwise the time alone has the next token above it.
 */
const FENCE_KEEP_MS = 3_600_000

interface RedisStoreOptions {
  /** One server or Cluster, or several that are independent. */
  nodes: readonly RedisClient[]
  prefix: string
  timeout: number
  log: FastifyBaseLogger
  calls: ReleaseListener
  clock: Clock
}

interface TakeReply {
  isTaken: boolean
  /** The token; or for how long another still has it. */
  value: number
  holder: unknown
}

/**
 * Keeps locks in Redis: one script an operation, on each node. On one node those who wait stand in line; by quorum each node
 * would have a line of its own, so all are called and ask again at random times.
 */
export function createRedisStore ({ nodes, prefix, timeout, log, calls, clock }: RedisStoreOptions): LockStore {
  const guarded = nodes.map(client => ({ client, guard: guardRedis(client, log, timeout, 'lock', clock, { isPatient: true }) }))
  const isQuorum = nodes.length > 1
  const space = (what: string) => keySpace(prefix, 'lock', what)
  const [held, fence, line, seen] = [space('held'), space('fence'), space('line'), space('seen')]
  const [first] = nodes
  const channel = first === undefined ? space('calls') : databaseChannel(first, space('calls'))
  let feeds: readonly ChannelSubscription[] | undefined
  let isClosed = false
  let isRefused = false

  /** The cause says why. The log does so once where Redis answers and refuses; an outage is logged by the circuit. */
  function unavailable (errors: readonly unknown[]): Error {
    const reason = reasonOf(errors.find(error => !isOutage(error)) ?? errors[0])
    if (!isRefused && !errors.every(isOutage)) log.warn({ plugin: 'lock', reason }, 'lock: no lock can be had, as Redis refuses it')
    isRefused ||= !errors.every(isOutage)
    // An error of the client holds the command's arguments, which are secret.
    return new StoreUnavailableError({ cause: new Error(reason) })
  }

  function recover (): void {
    isRefused = false
    log.info({ plugin: 'lock' }, 'lock: locks can be had again')
  }

  function decided ({ verdict, errors }: QuorumResult<unknown>): boolean {
    if (verdict === undefined) throw unavailable(errors)
    return verdict
  }

  /** Keys of one resource share a hash tag. */
  const idOf = (resource: string) => `{${safeId(resource)}}`
  const ask = (script: Script, keys: string[], args: Array<string | number>, how: 'run' | 'runOnce' = 'run'): Array<Promise<unknown>> =>
    guarded.map(({ client, guard }) => guard[how](() => runScript(client, script, keys, args, clock)))

  /** Nobody listens before somebody had to wait. */
  function listen (): void {
    // An answer may come late.
    if (isClosed) return
    feeds ??= nodes.map(client => subscribeToChannel({
      client,
      plugin: 'lock',
      channel,
      log,
      without: 'lock: cannot hear when a lock is free, so those who wait ask again and again',
      onMessage: calls.call,
      onGap: calls.callAll,
      clock
    }))
  }

  async function extend (resource: string, owner: string, ttl: number, token: number): Promise<boolean> {
    const id = idOf(resource)
    const answers = ask(extendScript, [held + id, fence + id], [owner, ttl, ttl + FENCE_KEEP_MS, token])
    return decided(await vote(answers, reply => reply === 1))
  }

  async function release (resource: string, owner: string, call: string): Promise<boolean> {
    const id = idOf(resource)
    const before = guarded.map(({ guard }) => guard.losses)
    // A second release would say that the lock was not held, also one that the client sends again over its next connection.
    const answers = ask(releaseScript, [held + id, line + id, seen + id], [owner, channel, call], 'runOnce').map(async (asked, i) => {
      const reply = await asked
      if (reply !== 1 && guarded[i]?.guard.losses !== before[i]) throw new Error('the connection was lost before the reply to the release')
      return reply
    })
    return decided(await vote(answers, reply => reply === 1))
  }

  /**
   * Where it is not known whether it was taken, or too few gave it. It goes where the question went, also while Redis is not asked
   * any more: on one connection it comes after the question, however late that is.
   */
  function giveBack (resource: string, owner: string, asked: ReadonlyArray<Promise<unknown>>): void {
    const id = idOf(resource)
    nodes.forEach((client, i) => {
      asked[i]?.then(reply => readTake(reply).isTaken, (error: unknown) => !(error instanceof CircuitOpenError))
        .then(async mayHaveIt => mayHaveIt && await runScript(client, releaseScript, [held + id, line + id, seen + id], [owner, channel, ''], clock))
        .catch(() => {})
    })
  }

  async function take (resource: string, owner: string, ttl: number, patience: number): Promise<AcquireResult> {
    const id = idOf(resource)
    const answers = ask(takeScript, [held + id, fence + id, line + id, seen + id], [owner, ttl, ttl + FENCE_KEEP_MS, isQuorum ? 0 : patience])
    const { yes, no, errors, verdict, isQuorate } = await vote(answers.map(async reply => readTake(await reply)), ({ isTaken }) => isTaken)
    if (verdict === true) {
      if (isRefused) recover()
      return { isTaken: true, fence: Math.max(...yes.map(({ value }) => value)) }
    }
    if (patience > 0) listen()
    if (isQuorum || !isQuorate) giveBack(resource, owner, answers)
    if (!isQuorate) throw await hasNoFence(answers) ? new FenceExhaustedError(fence + id) : unavailable(errors)
    if (isRefused) recover()
    return { isTaken: false, left: isHeldByOne(no, nodes.length) ? Math.min(...no.map(({ value }) => Math.max(value, 1))) : 0 }
  }

  /**
   * A token is made known to a majority before it is used. Any later majority has a node that knows it, and
   * gives out a higher one.
   */
  async function takeByQuorum (resource: string, owner: string, ttl: number, patience: number): Promise<AcquireResult> {
    const asked = clock.monotonic()
    const answer = await take(resource, owner, ttl, patience)
    if (!answer.isTaken) return answer
    if (await extend(resource, owner, ttl, answer.fence)) return answer
    // It expired before this process got round to it, and no other owner took it for that: the caller asks again by the same name.
    if (clock.monotonic() - asked >= ttl) return answer
    release(resource, owner, '').catch(() => {})
    return { isTaken: false, left: 0 }
  }

  return {
    hasQueue: !isQuorum,
    take: isQuorum ? takeByQuorum : take,
    extend,
    release: (resource, owner) => release(resource, owner, isQuorum ? held + idOf(resource) : ''),
    async isLocked (resource) {
      const answers = guarded.map(({ client, guard }) => guard.run(() => client.exists(held + idOf(resource))))
      return decided(await vote(answers, count => count === 1))
    },
    callOf: (resource, owner) => isQuorum ? held + idOf(resource) : owner,
    close () {
      isClosed = true
      feeds?.forEach(feed => feed.close())
    }
  }
}

/** Whether a node cannot give out a token. All answers are there, or have failed. */
async function hasNoFence (answers: ReadonlyArray<Promise<unknown>>): Promise<boolean> {
  const settled = await Promise.allSettled(answers)
  return settled.some(answer => answer.status === 'rejected' && reasonOf(answer.reason).startsWith(FENCE_ERROR))
}

function readTake (reply: unknown): TakeReply {
  const [taken, value, holder]: unknown[] = Array.isArray(reply) ? reply : []
  return { isTaken: taken === 1, value: Number(value), holder }
}

/** Or several asked at once, and none of them has the majority. */
function isHeldByOne (refusals: readonly TakeReply[], count: number): boolean {
  return refusals.some(({ holder }) => refusals.filter(other => other.holder === holder).length * 2 > count)
}
