import { randomBytes } from 'node:crypto'
import type { Clock } from '../shared/plugin/clock.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { ClosedError, LockedError, StoreUnavailableError, withResource } from './errors.js'
import type { HeldLockHandle } from './held-lock.js'
import type { LockStore } from './store.js'
import type { Waiters } from './waiters.js'

interface WaitOptions {
  store: LockStore
  waiters: Waiters
  clock: Clock
  /** By the clock's `monotonic()`. */
  deadline: number
  retryDelay: Milliseconds
  timeout: Milliseconds
  signal: AbortSignal | undefined
  isOpen: () => boolean
}

/** How often a lock is requested, even after the deadline, if its TTL passes before each reply is read. */
export const MAX_LATE_ATTEMPTS = 3

/**
 * Waits until the lock of a resource is acquired. A waiter is notified of a release, and also polls, as notifications
 * may be missed and locks may expire.
 */
export async function waitForLock (resource: string, handle: HeldLockHandle, options: WaitOptions): Promise<void> {
  const { store, waiters, clock, deadline, retryDelay, signal } = options
  let owner = newOwner()
  const name = store.notificationName(resource, owner)
  // Registered before the first attempt, so that no notification is missed between its reply and the wait.
  const waiter = waiters.register(name)
  signal?.addEventListener('abort', waiter.notify)
  handle.signal.addEventListener('abort', waiter.notify)
  let isQueued = false
  try {
    for (let lateAttempts = 0; ;) {
      const attempt = await tryAcquire(resource, owner, handle, options)
      if (attempt.kind === 'acquired') return
      if (attempt.kind === 'late') {
        // The store grants the lock to the same owner for another TTL: a stall of this process costs a round trip.
        if (++lateAttempts >= MAX_LATE_ATTEMPTS && isOver(options)) {
          throw new StoreUnavailableError(
            { cause: new Error(`${MAX_LATE_ATTEMPTS} grants were read after their ttl had passed`) }
          )
        }
        continue
      }
      isQueued = store.hasQueue
      await waiter.wait(Math.min(delayOf(attempt.remaining, retryDelay), Math.max(0, deadline - clock.monotonic())))
      // By quorum the last attempt may be undone late, and must not undo the next one.
      if (!store.hasQueue) owner = newOwner()
    }
  } catch (error) {
    // Leaves the queue, where the lock may be handed over to it. A signal's reason may be a LockedError as well.
    if (isQueued || signal?.aborted === true || !(error instanceof LockedError)) {
      store.release(resource, owner).catch(() => {})
    }
    throw error
  } finally {
    waiters.remove(name, waiter)
    signal?.removeEventListener('abort', waiter.notify)
    handle.signal.removeEventListener('abort', waiter.notify)
  }
}

/** `late`: the lock was granted, but its TTL had passed when this process read the reply. */
type Attempt = { kind: 'acquired' } | { kind: 'late' } | { kind: 'locked', remaining: Milliseconds }

async function tryAcquire (
  resource: string, owner: string, handle: HeldLockHandle, options: WaitOptions
): Promise<Attempt> {
  const { store, clock, retryDelay, timeout, signal, isOpen } = options
  signal?.throwIfAborted()
  const requestedAt = clock.monotonic()
  const isLast = isOver(options)
  // Twice the time until the next attempt, as timers and replies may be late.
  const result = await store.acquire(resource, owner, handle.ttl, isLast ? 0 : retryDelay * 2 + timeout)
  signal?.throwIfAborted()
  await handle.throwIfOver()
  if (result.kind === 'acquired') {
    if (clock.monotonic() >= handle.certainUntil(requestedAt)) return { kind: 'late' }
    handle.add(resource, owner, result.token, requestedAt)
    return { kind: 'acquired' }
  }
  if (!isOpen()) throw new ClosedError()
  if (isLast) throw withResource(new LockedError(), resource)
  return result
}

function isOver ({ clock, deadline, isOpen }: WaitOptions): boolean {
  return clock.monotonic() >= deadline || !isOpen()
}

function newOwner (): string {
  return randomBytes(16).toString('base64url')
}

/** Random delays keep owners that asked at once from doing so again. */
function delayOf (remaining: Milliseconds, retryDelay: Milliseconds): Milliseconds {
  return remaining === 0
    ? Math.random() * retryDelay / 5
    : Math.min(remaining + 1, retryDelay * (0.5 + Math.random() / 2))
}
