import { randomBytes } from 'node:crypto'
import type { Clock } from '../shared/plugin/clock.js'
import type { Waiters } from './waiters.js'
import { about, ClosedError, LockedError, StoreUnavailableError } from './errors.js'
import type { HeldLockHandle } from './held-lock.js'
import type { LockStore } from './store.js'

export interface Waiting {
  store: LockStore
  bells: Waiters
  clock: Clock
  /** By the clock's `monotonic()`. */
  deadline: number
  /** Milliseconds. */
  retryDelay: number
  timeout: number
  signal: AbortSignal | undefined
  isOpen: () => boolean
}

/** How often a lock is asked for, though the wait is over, where each time its TTL had passed before this process could use it. */
export const MAX_LATE_ATTEMPTS = 3

/**
 * Takes the lock of one resource, when it is free. Who waits is called when it is; that he also asks again by himself is for
 * calls that were missed, and for locks that nobody released.
 */
export async function waitForLock (resource: string, holding: HeldLockHandle, waiting: Waiting): Promise<void> {
  const { store, bells, clock, deadline, retryDelay, signal } = waiting
  let owner = newOwner()
  const name = store.callOf(resource, owner)
  // It hangs before the first question, so that no call is missed between the answer and the waiting.
  const bell = bells.register(name)
  signal?.addEventListener('abort', bell.notify)
  holding.signal.addEventListener('abort', bell.notify)
  let stoodInLine = false
  try {
    for (let lateAnswers = 0; ;) {
      const left = await ask(resource, owner, holding, waiting)
      if (left === 'taken') return
      if (left === 'late') {
        // The owner of a lock may ask for it again, and then it stands for another TTL: a stall of this process costs a round trip.
        if (++lateAnswers >= MAX_LATE_ATTEMPTS && isOver(waiting)) throw new StoreUnavailableError({ cause: new Error(`${MAX_LATE_ATTEMPTS} grants were read after their ttl had passed`) })
        continue
      }
      stoodInLine = store.hasQueue
      await bell.wait(Math.min(delayOf(left, retryDelay), Math.max(0, deadline - clock.monotonic())))
      // What is given back from the last attempt, however late, must not be what the next one takes.
      if (!store.hasQueue) owner = newOwner()
    }
  } catch (error) {
    // Out of the line, where it may be its turn. A signal's reason is anything, also the refusal of another lock.
    if (stoodInLine || signal?.aborted === true || !(error instanceof LockedError)) store.release(resource, owner).catch(() => {})
    throw error
  } finally {
    bells.remove(name, bell)
    signal?.removeEventListener('abort', bell.notify)
    holding.signal.removeEventListener('abort', bell.notify)
  }
}

function isOver ({ clock, deadline, isOpen }: Waiting): boolean {
  return clock.monotonic() >= deadline || !isOpen()
}

/** @returns `'late'` where the lock was granted and its TTL had passed when the answer was read; else for how long another owner may have it (ms) */
async function ask (resource: string, owner: string, holding: HeldLockHandle, waiting: Waiting): Promise<'taken' | 'late' | number> {
  const { store, clock, retryDelay, timeout, signal, isOpen } = waiting
  signal?.throwIfAborted()
  const asked = clock.monotonic()
  const isLast = isOver(waiting)
  // Twice until it asks again, as timers and answers are late at times.
  const answer = await store.take(resource, owner, holding.ttl, isLast ? 0 : retryDelay * 2 + timeout)
  signal?.throwIfAborted()
  await holding.throwIfOver()
  if (answer.isTaken) {
    if (clock.monotonic() >= holding.certainUntil(asked)) return 'late'
    holding.add(resource, owner, answer.fence, asked)
    return 'taken'
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
