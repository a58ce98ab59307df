import { randomBytes } from 'node:crypto'
import type { Clock } from '../shared/clock.js'
import type { Bells } from './bells.js'
import { about, ClosedError, LockedError, StoreUnavailableError } from './errors.js'
import type { Holding } from './holding.js'
import type { LockStore } from './store.js'

export interface Waiting {
  store: LockStore
  bells: Bells
  clock: Clock
  /** By the clock's `monotonic()`. */
  deadline: number
  /** Milliseconds. */
  retryDelay: number
  timeout: number
  signal: AbortSignal | undefined
  isOpen: () => boolean
}

/**
 * Takes the lock of one resource, when it is free. Who waits is called when it is; that he also asks again by himself is for
 * calls that were missed, and for locks that nobody released.
 */
export async function waitForLock (resource: string, holding: Holding, waiting: Waiting): Promise<void> {
  const { store, bells, clock, deadline, retryDelay, signal } = waiting
  let owner = newOwner()
  const name = store.callOf(resource, owner)
  // It hangs before the first question, so that no call is missed between the answer and the waiting.
  const bell = bells.hang(name)
  signal?.addEventListener('abort', bell.ring)
  holding.signal.addEventListener('abort', bell.ring)
  let stoodInLine = false
  try {
    for (;;) {
      const left = await ask(resource, owner, holding, waiting)
      if (left === undefined) return
      stoodInLine = store.hasLine
      await bell.wait(Math.min(delayOf(left, retryDelay), Math.max(0, deadline - clock.monotonic())))
      // What is given back from the last attempt, however late, must not be what the next one takes.
      if (!store.hasLine) owner = newOwner()
    }
  } catch (error) {
    // Out of the line, where it may be its turn. A signal's reason is anything, also the refusal of another lock.
    if (stoodInLine || signal?.aborted === true || !(error instanceof LockedError)) store.release(resource, owner).catch(() => {})
    throw error
  } finally {
    bells.remove(name, bell)
    signal?.removeEventListener('abort', bell.ring)
    holding.signal.removeEventListener('abort', bell.ring)
  }
}

/** @returns undefined where it was taken, else for how long another may have it (ms) */
async function ask (resource: string, owner: string, holding: Holding, waiting: Waiting): Promise<number | undefined> {
  const { store, clock, deadline, retryDelay, timeout, signal, isOpen } = waiting
  signal?.throwIfAborted()
  const asked = clock.monotonic()
  const isLast = asked >= deadline || !isOpen()
  // Twice until it asks again, as timers and answers are late at times.
  const answer = await store.take(resource, owner, holding.ttl, isLast ? 0 : retryDelay * 2 + timeout)
  signal?.throwIfAborted()
  holding.throwIfOver()
  if (answer.isTaken) {
    // A lock whose answer took the whole TTL is worth nothing.
    if (holding.certainUntil(asked) <= clock.monotonic()) throw new StoreUnavailableError()
    holding.add(resource, owner, answer.fence, asked)
    return undefined
  }
  if (!isOpen()) throw new ClosedError()
  if (isLast) throw about(new LockedError(), resource)
  return answer.left
}

function newOwner (): string {
  return randomBytes(16).toString('base64url')
}

/** At random, so that those who asked at once do not do so again. */
function delayOf (left: number, retryDelay: number): number {
  return left === 0 ? Math.random() * retryDelay / 5 : Math.min(left + 1, retryDelay * (0.5 + Math.random() / 2))
}
