import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import { bytesOf, ownEntry, type Entry } from './entry.js'
import { lockedToken, type CasToken } from './entry-codec.js'
import { createPace } from './pace.js'
import { ALL_TAG, HIT_FOR_PASS_MS, PATTERN_TAG, TOMBSTONE_MS, type CacheStore } from './store.js'

interface Slot {
  token: CasToken
  /** Undefined for a tombstone. */
  entry: Entry | undefined
  isMarked?: boolean
}

interface Claim {
  token: string
  pass: boolean
  until: number
}

/**
 * Keeps entries in this process, bounded in bytes: the ones that were used least recently go first.
 *
 * @param maxSize - bytes
 */
export function createMemoryStore (maxSize: number, clock: Clock = systemClock): CacheStore {
  const time = steadyTime(clock)
  let [hits, misses, evicted, expired] = [0, 0, 0, 0]
  const slots = new LRUCache<string, Slot>({
    maxSize,
    sizeCalculation: ({ entry }) => bytesOf(entry),
    perf: { now: time },
    ttlResolution: 0,
    dispose: (_slot, _id, reason) => {
      if (reason === 'evict') evicted++
      if (reason === 'expire') expired++
    }
  })
  const claims = new LRUCache<string, Claim>({ max: 10_000 })
  // When the tag was invalidated last, and what makes it unique. One that was dropped is made anew, and what was made with
  // the old one becomes invalid.
  const versions = new LRUCache<string, string>({ max: 100_000 })
  let last = 0

  function versionFor (tag: string): string {
    const known = versions.get(tag) ?? `0-${++last}`
    versions.set(tag, known)
    return known
  }

  /** @returns false where it is larger than all there is to keep it in */
  function set (id: string, entry: Entry, hold = 0, ttl = entry.deleteAt - entry.storedAt): boolean {
    slots.set(id, { token: String(++last), entry: ownEntry(entry) }, { ttl: Math.max(1, Math.ceil(ttl), hold) })
    return slots.has(id)
  }

  const held = (work: string, token: string) => claims.get(work)?.token === token

  return {
    skew: 0,
    isSpread: false,
    async read (id, tags) {
      const seen = Object.fromEntries([ALL_TAG, ...tags].map(tag => [tag, versions.get(tag)]))
      const slot = slots.get(id)
      if (slot?.isMarked) return { entry: undefined, token: lockedToken(slot.token), versions: seen }
      const isValid = slot?.entry !== undefined && Object.entries(slot.entry.tags).every(([tag, version]) => versions.get(tag) === version)
      if (isValid) hits++
      else misses++
      return { entry: isValid ? slot.entry : undefined, token: slot?.token ?? '', versions: seen }
    },
    async acquireFill (work, token, tags, ms) {
      const claim = claims.get(work)
      const now = time()
      const isTaken = claim !== undefined && claim.until > now
      if (!isTaken) claims.set(work, { token, pass: false, until: now + ms })
      return {
        claim: !isTaken ? 'mine' : claim.pass ? 'pass' : 'theirs',
        now,
        versions: Object.fromEntries(tags.map(tag => [tag, versionFor(tag)]))
      }
    },
    async renewFill (work, token, ms) {
      if (held(work, token)) claims.set(work, { token, pass: false, until: time() + ms })
    },
    async releaseFill (work, token, pass) {
      if (!held(work, token)) return
      if (pass) claims.set(work, { token: '', pass, until: time() + HIT_FOR_PASS_MS })
      else claims.delete(work)
    },
    async write (id, entry, token, patterns, hold = 0, ttl = entry.deleteAt - entry.storedAt) {
      const present = slots.get(id)
      if (present !== undefined && present.token !== token) return false
      if (patterns !== undefined && versions.get(PATTERN_TAG) !== patterns) return false
      return set(id, entry, hold, ttl)
    },
    async setMany (items) {
      for (const { id, tags, make } of items) set(id, make(Object.fromEntries([ALL_TAG, ...tags].map(tag => [tag, versionFor(tag)]))))
    },
    async lockKey (id) {
      const present = slots.get(id)
      const token = String(++last)
      const left = slots.getRemainingTTL(id)
      slots.set(id, { token, entry: present?.entry, isMarked: true }, { ttl: TOMBSTONE_MS })
      return { token, wasLocked: present?.isMarked ?? false, left }
    },
    async unlockKey (id, { token, left }) {
      const present = slots.get(id)
      if (present?.token === token) slots.set(id, { token, entry: present.entry }, { ttl: Math.max(left, TOMBSTONE_MS) })
    },
    async remove (id, _label, token) {
      const present = slots.get(id)
      if (token !== undefined && present?.token !== token) return false
      slots.set(id, { token: String(++last), entry: undefined }, { ttl: TOMBSTONE_MS })
      return present?.entry !== undefined
    },
    async tags (tags) {
      return Object.fromEntries(tags.map(tag => {
        const version = versionFor(tag)
        return [tag, { version, invalidatedAt: Number.parseFloat(version) }]
      }))
    },
    async invalidate (tags) { for (const tag of tags) versions.set(tag, `${time()}-${++last}`) },
    async now () { return time() },
    async stats () {
      const looked = hits + misses
      return { kind: 'memory', entries: slots.size, usedMemory: slots.calculatedSize, maxMemory: maxSize, policy: 'lru', hitRatio: hits / looked, evicted, expired }
    },
    async removeMatching (matches) {
      const pace = createPace()
      let removed = 0
      for (const id of [...slots.keys()]) {
        const label = slots.peek(id)?.entry?.label
        if (label === undefined) continue
        await pace(label)
        if (matches(label) && slots.delete(id)) removed++
      }
      return removed
    }
  }
}
