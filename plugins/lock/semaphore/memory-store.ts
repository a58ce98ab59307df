import type { Clock } from '../../shared/plugin/clock.js'
import type { ReleaseListener } from '../store.js'
import { WITHOUT_RECORDS, type SemaphoreStore } from './store.js'

interface Semaphore {
  /** By owner. */
  readonly holders: Map<string, { weight: number, endsAt: number }>
  /** The waiting owners in order, each with the time at which it leaves unless it asks again. */
  readonly waiters: Map<string, number>
}

/** Holds the permits of semaphores in this process. Times are by the clock's `monotonic()`. */
export function createMemorySemaphores (listener: ReleaseListener, clock: Clock): SemaphoreStore {
  const semaphores = new Map<string, Semaphore>()

  /** Returns a semaphore without the holders and waiters whose time has ended. */
  function find (name: string): Semaphore {
    const found = semaphores.get(name) ?? { holders: new Map(), waiters: new Map() }
    const now = clock.monotonic()
    for (const [owner, { endsAt }] of found.holders) if (endsAt <= now) found.holders.delete(owner)
    for (const [owner, leavesAt] of found.waiters) if (leavesAt <= now) found.waiters.delete(owner)
    return found
  }

  /** Keeps only semaphores with holders or waiters. */
  function keep (name: string, semaphore: Semaphore): void {
    if (semaphore.holders.size + semaphore.waiters.size > 0) semaphores.set(name, semaphore)
    else semaphores.delete(name)
  }

  const usedOf = ({ holders }: Semaphore): number => [...holders.values()].reduce((sum, { weight }) => sum + weight, 0)

  function callFirst ({ waiters }: Semaphore): void {
    const [first] = waiters.keys()
    if (first !== undefined) listener.notify(first)
  }

  return {
    locksOf: ({ permits, weight }) => ({
      ...WITHOUT_RECORDS,
      hasQueue: true,
      async acquire (name, owner, ttl, queueTtl) {
        const semaphore = find(name)
        const { holders, waiters } = semaphore
        const now = clock.monotonic()
        const [first = owner] = waiters.keys()
        if (holders.has(owner) || (first === owner && usedOf(semaphore) + weight <= permits)) {
          holders.set(owner, { weight, endsAt: now + ttl })
          waiters.delete(owner)
          keep(name, semaphore)
          // There may be permits for the next one too.
          callFirst(semaphore)
          return { kind: 'acquired', token: clock.now() * 1000 }
        }
        if (queueTtl > 0) waiters.set(owner, now + queueTtl)
        keep(name, semaphore)
        const firstEnd = Math.min(...[...holders.values()].map(({ endsAt }) => endsAt))
        return { kind: 'locked', remaining: Math.max(1, Math.ceil(Math.min(firstEnd - now, ttl))) }
      },
      async extend (name, owner, ttl) {
        const holder = find(name).holders.get(owner)
        if (holder !== undefined) holder.endsAt = clock.monotonic() + ttl
        return holder !== undefined
      },
      async release (name, owner) {
        const semaphore = find(name)
        semaphore.waiters.delete(owner)
        const wasHolder = semaphore.holders.delete(owner)
        keep(name, semaphore)
        callFirst(semaphore)
        return wasHolder
      },
      isLocked: async name => usedOf(find(name)) + weight > permits,
      notificationName: (_name, owner) => owner,
      close () {}
    }),
    used: async name => usedOf(find(name))
  }
}
