import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'
import { bytesOf, ownEntry, ttlOf, type Entry } from './entry.js'
import { lockedToken, QUEUED, queuedToken, STAGED, stagedToken, type CasToken } from './entry-codec.js'
import { createPace } from './glob.js'
import {
  ALL_TAG, FIRST_VERSION, HIT_FOR_PASS_MS, PATTERN_TAG, TOMBSTONE_MS,
  STAGED_MS, type CacheStore, type FillLease, type Put, type ReadResult, type StagedEntry, type StoreStats,
  type TagState, type WriteLock, type WriteOptions
} from './store.js'

interface Slot {
  token: CasToken
  /** Undefined for a tombstone. */
  entry: Entry | undefined
  isLocked: boolean
}

interface Lease {
  /** Undefined for hit-for-pass. */
  holder: string | undefined
  expiresAt: number
}

const MAX_LEASES = 10_000
const MAX_TAGS = 100_000

/** Stores entries in this process, bounded in bytes: the least recently used ones are evicted first. */
export class MemoryCacheStore implements CacheStore {
  readonly skew = 0
  readonly isSpread = false
  readonly #maxSize: Bytes
  readonly #now: () => number
  readonly #slots: LRUCache<string, Slot>
  readonly #leases = new LRUCache<string, Lease>({ max: MAX_LEASES })
  /**
   * The version of each tag: when it was invalidated last, and a number that makes it unique. A tag that is dropped
   * gets another one.
   */
  readonly #versions = new LRUCache<string, string>({ max: MAX_TAGS })
  #sequence = 0
  #hits = 0
  #misses = 0
  #evicted = 0
  #expired = 0

  constructor (maxSize: Bytes, clock: Clock = systemClock) {
    this.#maxSize = maxSize
    this.#now = steadyTime(clock)
    this.#slots = new LRUCache({
      maxSize,
      sizeCalculation: ({ entry }) => bytesOf(entry),
      perf: { now: this.#now },
      ttlResolution: 0,
      dispose: (_slot, _id, reason) => {
        if (reason === 'evict') this.#evicted++
        if (reason === 'expire') this.#expired++
      }
    })
  }

  async read (id: string, tags: readonly string[]): Promise<ReadResult> {
    const versions = Object.fromEntries([ALL_TAG, ...tags].map(tag => [tag, this.#versions.get(tag)]))
    const slot = this.#slots.get(id)
    const token = tokenOf(slot)
    if (slot?.isLocked) return { entry: undefined, token, versions }
    const entry = slot?.entry !== undefined && this.#isValid(slot.entry) ? slot.entry : undefined
    if (entry === undefined) this.#misses++
    else this.#hits++
    return { entry, token, versions }
  }

  lease (fillId: string, token: string): FillLease {
    const isHeld = () => this.#leases.get(fillId)?.holder === token
    const release = async (isShareable: boolean) => {
      if (!isHeld()) return
      if (isShareable) this.#leases.delete(fillId)
      else this.#leases.set(fillId, { holder: undefined, expiresAt: this.#now() + HIT_FOR_PASS_MS })
    }
    return {
      token,
      release,
      finish: async (id, entry, token, patternVersion) => {
        const isStored = await this.write(id, entry, token, { patternVersion })
        await release(isStored)
        return { isStored, isReleased: true }
      },
      acquire: async (tags, ttl, id = '') => {
        const lease = this.#leases.get(fillId)
        const now = this.#now()
        const isTaken = lease !== undefined && lease.expiresAt > now
        if (!isTaken) this.#leases.set(fillId, { holder: token, expiresAt: now + ttl })
        const kind = !isTaken ? 'acquired' : lease.holder === undefined ? 'hit-for-pass' : 'held'
        return { kind, now, versions: this.#createVersions(tags), entryToken: tokenOf(this.#slots.peek(id)) }
      },
      renew: async ttl => {
        if (isHeld()) this.#leases.set(fillId, { holder: token, expiresAt: this.#now() + ttl })
      }
    }
  }

  async write (id: string, entry: Entry, token: CasToken, options: WriteOptions = {}): Promise<boolean> {
    const { patternVersion, minTtl = 0, ttl = ttlOf(entry) } = options
    const present = this.#slots.get(id)
    if (present !== undefined && present.token !== token) return false
    if (patternVersion !== undefined && this.#versions.get(PATTERN_TAG) !== patternVersion) return false
    this.#set(id, ownEntry(entry), Math.max(1, Math.ceil(ttl), minTtl))
    // An entry that is larger than the whole store is not stored.
    return this.#slots.has(id)
  }

  async setMany (items: readonly Put[]): Promise<void> {
    for (const { id, tags, make } of items) {
      const entry = make(this.#createVersions([ALL_TAG, ...tags]))
      this.#set(id, ownEntry(entry), lifeOf(entry))
    }
  }

  async lockKey (id: string): Promise<WriteLock> {
    const before = this.#slots.get(id)
    const left = this.#slots.getRemainingTTL(id)
    const token = this.#set(id, before?.entry, TOMBSTONE_MS, { isLocked: true })
    return {
      token,
      wasLocked: before?.isLocked ?? false,
      unlock: async () => {
        const present = this.#slots.get(id)
        if (present?.token !== token) return
        this.#slots.set(id, { ...present, isLocked: false }, { ttl: Math.max(left, TOMBSTONE_MS) })
      }
    }
  }

  async stage (id: string, entry: Entry): Promise<StagedEntry> {
    const before = this.#slots.get(id)
    const until = this.#now() + this.#slots.getRemainingTTL(id)
    const token = this.#set(id, ownEntry(entry), lifeOf(entry, STAGED_MS), { token: stagedToken() })
    return {
      confirm: async (confirmed, position) => {
        const present = this.#slots.get(id)?.token ?? ''
        const queued = queuedToken(position)
        const isEarlier = present.startsWith(STAGED) || (present.startsWith(QUEUED) && present < queued)
        if (!isEarlier) return false
        this.#set(id, ownEntry(confirmed), lifeOf(confirmed), { token: queued })
        return this.#slots.has(id)
      },
      undo: async () => {
        if (this.#slots.get(id)?.token !== token) return
        const left = until - this.#now()
        if (before?.token.startsWith(QUEUED) && left > 0) this.#slots.set(id, before, { ttl: left })
        else this.#set(id, undefined, TOMBSTONE_MS)
      }
    }
  }

  async settle (id: string, _label: string, position: string): Promise<boolean> {
    const present = this.#slots.get(id)
    const token = present?.token ?? ''
    if (token.startsWith(STAGED) || (token.startsWith(QUEUED) && token >= queuedToken(position))) return false
    this.#set(id, undefined, TOMBSTONE_MS)
    return present?.entry !== undefined
  }

  async remove (id: string, _label?: string, token?: CasToken): Promise<boolean> {
    const present = this.#slots.get(id)
    if (token !== undefined && present?.token !== token) return false
    this.#set(id, undefined, TOMBSTONE_MS)
    return present?.entry !== undefined
  }

  async tags (tags: readonly string[]): Promise<TagState> {
    const versions = this.#createVersions(tags)
    return { now: this.#now(), versions, invalidatedAt: Math.max(0, ...Object.values(versions).map(Number.parseFloat)) }
  }

  async invalidate (tags: readonly string[]): Promise<void> {
    for (const tag of tags) this.#versions.set(tag, `${this.#now()}-${++this.#sequence}`)
  }

  async removeMatching (matches: (label: string) => boolean): Promise<number> {
    const pace = createPace()
    let removed = 0
    for (const id of [...this.#slots.keys()]) {
      const label = this.#slots.peek(id)?.entry?.label
      if (label === undefined) continue
      await pace(label)
      if (matches(label) && this.#slots.delete(id)) removed++
    }
    return removed
  }

  async stats (): Promise<StoreStats> {
    return {
      kind: 'memory',
      entries: this.#slots.size,
      usedMemory: this.#slots.calculatedSize,
      maxMemory: this.#maxSize,
      policy: 'lru',
      hitRatio: this.#hits / (this.#hits + this.#misses),
      evicted: this.#evicted,
      expired: this.#expired
    }
  }

  #set (
    id: string, entry: Entry | undefined, ttl: Milliseconds,
    { token = String(++this.#sequence), isLocked = false }: Partial<Pick<Slot, 'token' | 'isLocked'>> = {}
  ): CasToken {
    this.#slots.set(id, { token, entry, isLocked }, { ttl })
    return token
  }

  #isValid ({ tags }: Entry): boolean {
    for (const tag in tags) if (this.#versions.get(tag) !== tags[tag]) return false
    return true
  }

  #createVersions (tags: readonly string[]): Record<string, string> {
    return Object.fromEntries(tags.map(tag => {
      const version = this.#versions.get(tag) ?? `${FIRST_VERSION}${++this.#sequence}`
      this.#versions.set(tag, version)
      return [tag, version]
    }))
  }
}

function tokenOf (slot: Slot | undefined): CasToken {
  return slot === undefined ? '' : slot.isLocked ? lockedToken(slot.token) : slot.token
}

function lifeOf (entry: Entry, max: Milliseconds = Infinity): Milliseconds {
  return Math.max(1, Math.min(Math.ceil(ttlOf(entry)), max))
}
