import { systemClock, type Clock } from '../shared/plugin/clock.js'
import type { ReleaseListener, LockStore } from './store.js'

interface StoredLock {
  owner: string
  /** By the clock's `monotonic()`. */
  expiresAt: number
}

/** Holds locks in this process. Tokens are above those of earlier processes, unless the clock was set back. */
export function createMemoryStore (listener: ReleaseListener, clock: Clock = systemClock): LockStore {
  const locks = new Map<string, StoredLock>()
  // By resource: the waiting owners in order, each with the time at which it leaves unless it asks again.
  const queues = new Map<string, Map<string, number>>()
  /** By resource and tick: until when the record lasts, by the clock's `monotonic()`. */
  const done = new Map<string, number>()
  let lastToken = 0

  const find = (resource: string) => {
    const lock = locks.get(resource)
    return lock !== undefined && lock.expiresAt > clock.monotonic() ? lock : undefined
  }
  const lock = (resource: string, owner: string, expiresAt: number) => {
    // Each new lock looks at the two oldest ones: it removes the expired, and moves the others to the end.
    let examined = 0
    for (const [name, present] of locks) {
      if (examined++ === 2) break
      locks.delete(name)
      if (present.expiresAt > clock.monotonic()) locks.set(name, present)
    }
    locks.delete(resource)
    locks.set(resource, { owner, expiresAt })
  }

  function leaveQueue (resource: string, owner: string): void {
    const queue = queues.get(resource)
    if (queue?.delete(owner) && queue.size === 0) queues.delete(resource)
  }

  function handOver (resource: string): void {
    locks.delete(resource)
    for (const [next, leavesAt] of queues.get(resource) ?? []) {
      leaveQueue(resource, next)
      if (leavesAt <= clock.monotonic()) continue
      lock(resource, next, leavesAt)
      return listener.notify(next)
    }
  }

  return {
    hasQueue: true,
    async acquire (resource, owner, ttl, queueTtl) {
      const now = clock.monotonic()
      const present = find(resource)
      if (present !== undefined && present.owner !== owner) {
        const queue = queues.get(resource) ?? new Map<string, number>()
        if (queueTtl > 0) queues.set(resource, queue.set(owner, now + queueTtl))
        return { kind: 'locked', remaining: Math.max(1, Math.ceil(present.expiresAt - now)) }
      }
      leaveQueue(resource, owner)
      lock(resource, owner, now + ttl)
      lastToken = Math.max(lastToken + 1, clock.now() * 1000)
      return { kind: 'acquired', token: lastToken }
    },
    async extend (resource, owner, ttl) {
      if (find(resource)?.owner !== owner) return false
      lock(resource, owner, clock.monotonic() + ttl)
      return true
    },
    async release (resource, owner) {
      leaveQueue(resource, owner)
      if (find(resource)?.owner !== owner) return false
      handOver(resource)
      return true
    },
    isLocked: async resource => find(resource) !== undefined,
    async markDone (resource, owner, tick, ttl) {
      if (find(resource)?.owner !== owner) return false
      for (const [name, until] of done) if (until <= clock.monotonic()) done.delete(name)
      done.set(JSON.stringify([resource, tick]), clock.monotonic() + ttl)
      return true
    },
    isDone: async (resource, tick) => (done.get(JSON.stringify([resource, tick])) ?? -Infinity) > clock.monotonic(),
    notificationName: (_resource, owner) => owner,
    close () {
      locks.clear()
      done.clear()
    }
  }
}
