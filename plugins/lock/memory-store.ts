import { systemClock, type Clock } from '../shared/plugin/clock.js'
import type { ReleaseListener, LockStore } from './store.js'

interface Held {
  owner: string
  /** By the clock's `monotonic()`. */
  until: number
}

/** Keeps locks in this process. Its tokens are above those of an earlier process, unless the clock was set back. */
export function createMemoryStore (calls: ReleaseListener, clock: Clock = systemClock): LockStore {
  const held = new Map<string, Held>()
  // Who waits, in the order in which they came, and by when they will have asked again.
  const lines = new Map<string, Map<string, number>>()
  let fence = 0

  const holderOf = (resource: string) => {
    const holder = held.get(resource)
    return holder !== undefined && holder.until > clock.monotonic() ? holder : undefined
  }
  const hold = (resource: string, owner: string, until: number) => {
    // Locks that were never released leave when others come by, two at most; one that stands makes room for those behind it.
    let seen = 0
    for (const [name, holder] of held) {
      if (seen++ === 2) break
      held.delete(name)
      if (holder.until > clock.monotonic()) held.set(name, holder)
    }
    held.delete(resource)
    held.set(resource, { owner, until })
  }

  function leave (resource: string, owner: string): void {
    const line = lines.get(resource)
    if (line?.delete(owner) && line.size === 0) lines.delete(resource)
  }

  function handOver (resource: string): void {
    held.delete(resource)
    for (const [next, seen] of lines.get(resource) ?? []) {
      leave(resource, next)
      if (seen <= clock.monotonic()) continue
      hold(resource, next, seen)
      return calls.call(next)
    }
  }

  return {
    hasQueue: true,
    async take (resource, owner, ttl, patience) {
      const now = clock.monotonic()
      const holder = holderOf(resource)
      if (holder !== undefined && holder.owner !== owner) {
        const line = lines.get(resource) ?? new Map<string, number>()
        if (patience > 0) lines.set(resource, line.set(owner, now + patience))
        return { isTaken: false, left: Math.max(1, Math.ceil(holder.until - now)) }
      }
      leave(resource, owner)
      hold(resource, owner, now + ttl)
      fence = Math.max(fence + 1, clock.now() * 1000)
      return { isTaken: true, fence }
    },
    async extend (resource, owner, ttl) {
      if (holderOf(resource)?.owner !== owner) return false
      hold(resource, owner, clock.monotonic() + ttl)
      return true
    },
    async release (resource, owner) {
      leave(resource, owner)
      if (holderOf(resource)?.owner !== owner) return false
      handOver(resource)
      return true
    },
    isLocked: async resource => holderOf(resource) !== undefined,
    callOf: (_resource, owner) => owner,
    close () { held.clear() }
  }
}
