import { randomUUID } from 'node:crypto'
import { Poller, type Clock } from '../../shared/plugin/clock.js'
import { hashId } from '../../shared/plugin/keys.js'
import { RetryQueue, type RetryItem } from '../../shared/plugin/retry-queue.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { CircuitOpenError } from '../../shared/redis/guard.js'
import type { CacheKey } from '../store/cache-key.js'
import type { Entry } from '../store/entry.js'
import type { CasToken } from '../store/entry-codec.js'
import {
  ALL_TAG, FIRST_VERSION, PATTERN_TAG, type FillLease, type FillStart, type KeyVersions, type LeaseState
} from '../store/store.js'
import { FillRenewals, LEASE_MS } from './fill-renewals.js'
import { NOTHING_DONE, type Lookup, type TwoTierCache } from './two-tier-cache.js'
import { refuseCycle, waitFor, type WaitTarget } from './wait-for-graph.js'

/** The pause between two attempts to release a lost lease. */
const RELEASE_RETRY_MS = 50
/** Lost leases beyond this number are not released, but expire. */
const MAX_LOST_LEASES = 1000
/** How long a caller waits for the fill of another instance, and by default for one of this process. */
export const MAX_WAIT_MS = 5000
/** How often a caller looks a key up again because the entry that it waited for was invalidated meanwhile. */
export const MAX_LOOKUPS = 5

/**
 * The fills that this process leads, by the token of their lease: one cache of a process may wait for the fill of
 * another cache.
 */
const fillsByToken = new Map<string, WaitTarget>()

/**
 * The result of a fill, for the callers in this process that wait for it.
 *
 * - `filled`: the entry that the fill made
 * - `stale`: the stale entry, which may be served because the fill failed
 * - `failed`: the error of the fill
 * - `retry`: the key is to be looked up again, as another instance has stored it or it was invalidated meanwhile
 * - `unshareable`: each caller fills for itself
 */
type FillOutcome =
  | { kind: 'filled' | 'stale', entry: Entry }
  | { kind: 'failed', error: unknown }
  | { kind: 'retry' }
  | { kind: 'unshareable' }

/**
 * The result of `join`: `lead` where the caller has to fill the entry itself, otherwise the outcome of another caller's
 * fill.
 */
type Admission = { kind: 'lead', fill: Fill } | Exclude<FillOutcome, { kind: 'unshareable' }>

const RETRY = { kind: 'retry' } as const
const UNSHAREABLE = { kind: 'unshareable' } as const

/** A fill that callers of this process may join. */
class InFlightFill implements WaitTarget {
  run: WaitTarget['run']
  blockedBy: WaitTarget['blockedBy']
  readonly done: Promise<FillOutcome>
  /** Lets the waiting callers go on. Callers that come later get the outcome at once. */
  settle: (outcome: FillOutcome) => void = () => {}
  /** The version of the tag of removals by pattern when the fill began; undefined where the store did not reply. */
  patternVersion: string | undefined
  waiters = 0
  /** Called when one of the waiting callers gives up. */
  onLeave: () => void = () => {}

  constructor () {
    this.done = new Promise(resolve => { this.settle = resolve })
  }

  /** Waits for the outcome: `unshareable` after `maxWait`. */
  async wait (clock: Clock, maxWait: Milliseconds, signal: AbortSignal | undefined): Promise<FillOutcome> {
    const leave = (): void => {
      this.waiters--
      this.onLeave()
    }
    this.waiters++
    if (signal?.aborted) leave()
    else signal?.addEventListener('abort', leave, { once: true })
    const outcome = await waitFor(this, () => this.#outcomeWithin(clock, maxWait))
    signal?.removeEventListener('abort', leave)
    return outcome
  }

  #outcomeWithin (clock: Clock, maxWait: Milliseconds): Promise<FillOutcome> {
    if (maxWait === Infinity) return this.done
    return new Promise(resolve => {
      const timer = clock.setTimeout(() => resolve(UNSHAREABLE), maxWait)
      this.done.then(outcome => { clock.clearTimeout(timer); resolve(outcome) }, () => {})
    })
  }
}

/**
 * `isShareable` is false where callers of other instances must not wait, but fill for themselves; `isReleased` is true
 * where the lease has been given back.
 */
type OnFinish = (outcome: FillOutcome, isShareable: boolean, isReleased: boolean) => void

/** A fill that this caller leads. Only the first of the calls that finish it counts. */
export class Fill {
  readonly lookup: Lookup
  /** The outcome that waiting callers wait for. */
  readonly waitTarget: WaitTarget
  /** By the store's clock: milliseconds since the epoch. */
  readonly startedAt: number
  /** The versions of all tags; undefined where nothing can be stored. */
  readonly versions: Readonly<Record<string, string>> | undefined
  readonly #cache: TwoTierCache
  readonly #inFlight: InFlightFill | undefined
  readonly #onFinish: OnFinish
  readonly #lease: FillLease | undefined
  #isFinished = false

  /**
   * @param start - undefined where the store did not reply
   * @param inFlight - undefined where no other caller can join
   * @param onFinish - called once
   * @param lease - undefined where none was acquired
   */
  constructor (
    cache: TwoTierCache, lookup: Lookup, start: FillStart | undefined, inFlight?: InFlightFill,
    onFinish: OnFinish = () => {}, lease?: FillLease
  ) {
    this.#lease = lease
    this.lookup = lookup
    this.waitTarget = inFlight ?? {}
    this.startedAt = start?.now ?? cache.now()
    this.versions = start?.versions
    this.#cache = cache
    this.#inFlight = inFlight
    this.#onFinish = onFinish
    if (inFlight !== undefined) inFlight.patternVersion = this.versions?.[PATTERN_TAG]
  }

  /** Whether callers of this process wait for the fill. */
  get isAwaited (): boolean {
    return this.#inFlight !== undefined && this.#inFlight.waiters > 0
  }

  /** @param listener - called when one of the waiting callers gives up */
  onLeave (listener: () => void): void {
    if (this.#inFlight !== undefined) this.#inFlight.onLeave = listener
  }

  /** Stores the entry, and lets the waiting callers go on. */
  async store (entry: Entry): Promise<boolean> {
    // Callers of this process had the same lookup, so they can use the entry at once. Other instances look it up.
    this.#inFlight?.settle({ kind: 'filled', entry })
    const { lookup, versions } = this
    const { isStored, isReleased } = versions === undefined
      ? NOTHING_DONE
      : await this.#cache.finishFill(lookup, entry, versions, this.#lease)
    this.#finish({ kind: 'filled', entry }, isStored, isReleased)
    return isStored
  }

  /**
   * Lets the waiting callers go on.
   *
   * @param entry - for the callers in this process; undefined: each fills for itself
   * @param isStored - whether other instances find the entry in the store
   */
  finish (entry: Entry | undefined, isStored = false): void {
    this.#finish(entry === undefined ? UNSHAREABLE : { kind: 'filled', entry }, isStored)
  }

  /** Resolves the waiting callers with the stale entry, as the fill has failed. */
  finishStale (entry: Entry): void {
    this.#finish({ kind: 'stale', entry }, false)
  }

  /** Rejects the waiting callers in this process. */
  fail (error: unknown): void {
    this.#finish({ kind: 'failed', error }, false)
  }

  /** Lets the waiting callers look the key up again, as the entry is outdated for some of them. */
  retry (): void {
    this.#finish(RETRY, true)
  }

  #finish (outcome: FillOutcome, isShareable: boolean, isReleased = false): void {
    if (this.#isFinished) return
    this.#isFinished = true
    this.#onFinish(outcome, isShareable, isReleased)
  }
}

/** A lease that may be held in the store without a fill: the reply to `acquire` was lost, or its release failed. */
interface LostLease extends RetryItem {
  readonly lease: FillLease
  readonly isShareable: boolean
}

/**
 * Coalesces misses: one caller across all instances fills the entry, and the others wait (bounded). If the result is
 * not shareable, all waiting callers proceed in parallel.
 */
export class FillCoordinator {
  readonly #cache: TwoTierCache
  readonly #inFlight = new Map<string, InFlightFill>()
  /** All instances would wait until these leases expire, so they are released as soon as the store is available. */
  readonly #lostLeases: RetryQueue<LostLease>
  readonly #renewals: FillRenewals

  /** With a number, the token of each lease: a random one for each costs a microsecond. */
  readonly #instance = randomUUID()
  #leaseCount = 0

  constructor (cache: TwoTierCache) {
    this.#cache = cache
    this.#lostLeases = new RetryQueue({
      clock: cache.clock,
      retryDelay: RELEASE_RETRY_MS,
      write: ({ lease, isShareable }) => cache.run(() => lease.release(isShareable))
    })
    this.#renewals = new FillRenewals(
      cache.clock, lease => cache.inBackground(cache.attempt(() => lease.renew(LEASE_MS))))
  }

  /**
   * Looks a key up in the store. While most keys are missing, the lease of a missing one is acquired with the lookup,
   * which saves {@link join} a round trip. The caller passes the lookup to {@link join} or {@link giveUp}.
   */
  lookup (key: CacheKey, tags: readonly string[]): Promise<Lookup> {
    const cache = this.#cache
    const fillId = firstFillId(key)
    if (!cache.mostlyMisses || cache.pendingInvalidations > 0 || this.#inFlight.has(fillId)) {
      return cache.lookup(key, tags)
    }
    return cache.lookup(key, tags, () => ({ fillId, token: this.#newToken(), ttl: LEASE_MS }))
  }

  /** Releases the lease of a lookup whose caller makes its response alone. */
  giveUp (lookup: Lookup): void {
    const taken = this.#takeLease(lookup)
    if (taken !== undefined) this.#release(taken.lease, true)
  }

  /**
   * Joins the fill of a key that this process leads, or leads one.
   *
   * @param maxWait - how long the caller waits for another caller of this process
   * @param signal - aborted when the caller gives up
   * @throws `FST_REDIS_SUITE_CACHE_REENTRANT` where the fill waits for the factory that calls this
   */
  async join (lookup: Lookup, maxWait: Milliseconds = MAX_WAIT_MS, signal?: AbortSignal): Promise<Admission> {
    // The id depends on the versions at the lookup: a fill that began before an invalidation is never joined after it.
    const id = fillIdOf(lookup)
    const present = this.#inFlight.get(id)
    if (present === undefined) return await this.#leadFill(id, lookup)
    this.giveUp(lookup)
    refuseCycle(present)
    this.#cache.count(lookup.key, 'coalesced')
    const outcome = await present.wait(this.#cache.clock, maxWait, signal)
    switch (outcome.kind) {
      case 'unshareable': return { kind: 'lead', fill: await this.#fillUnshared(lookup) }
      case 'filled':
      case 'stale': return await this.#isCurrent(lookup, outcome.entry, present.patternVersion) ? outcome : RETRY
      default: return outcome
    }
  }

  /**
   * Leads the fill of a key, without waiting.
   *
   * @returns undefined where another caller leads it, or it was filled meanwhile
   */
  async tryLead (lookup: Lookup): Promise<Fill | undefined> {
    const id = fillIdOf(lookup)
    if (this.#inFlight.has(id)) return undefined
    const inFlight = this.#announce(id)
    const lease = this.#cache.store.lease(id, this.#newToken())
    const { start, isDone } = await this.#acquireLease(lookup, lease)
    if (start?.kind === 'acquired' && !isDone) return this.#lead(id, lookup, inFlight, lease, start)
    this.#end(id, inFlight, RETRY)
    return undefined
  }

  /** Makes a last attempt to release lost leases. */
  async close (): Promise<void> {
    await this.#lostLeases.close()
  }

  /**
   * Leads a fill once no other instance holds its lease. It does so without a lease where the store does not reply, and
   * after `MAX_WAIT_MS`.
   */
  async #leadFill (id: string, lookup: Lookup): Promise<Admission> {
    const inFlight = this.#announce(id)
    const taken = this.#takeLease(lookup)
    if (taken !== undefined) {
      if (this.#cache.pendingInvalidations === lookup.pendingInvalidations) {
        return { kind: 'lead', fill: this.#lead(id, lookup, inFlight, taken.lease, taken.start) }
      }
      this.#release(taken.lease, true)
      this.#end(id, inFlight, RETRY)
      return RETRY
    }
    let poller: Poller | undefined
    const lease = this.#cache.store.lease(id, this.#newToken())
    for (;;) {
      const { start, isDone } = await this.#acquireLease(lookup, lease)
      if (isDone) {
        this.#end(id, inFlight, RETRY)
        return RETRY
      }
      const shouldRetry = start?.kind === 'held' &&
        await this.#waitForHolder(id, inFlight, start.holder, poller ??= new Poller(this.#cache.clock, MAX_WAIT_MS))
      if (!shouldRetry) return { kind: 'lead', fill: this.#lead(id, lookup, inFlight, lease, start) }
    }
  }

  /**
   * Takes the lease that was acquired with a lookup, which one caller may do.
   *
   * @returns undefined where there is none, or another caller has taken it
   */
  #takeLease (lookup: Lookup): { lease: FillLease, start: LeaseState & FillStart } | undefined {
    const { lease: request, acquired } = lookup
    if (request === undefined) return undefined
    lookup.lease = undefined
    if (acquired === undefined && lookup.snapshot !== undefined) return undefined
    const lease = this.#cache.store.lease(request.fillId, request.token)
    if (acquired !== undefined) return { lease, start: { kind: 'acquired', ...acquired } }
    // It may have been acquired although the reply was lost.
    this.#addLostLease(lease, true)
    return undefined
  }

  #newToken (): string {
    return `${this.#instance}:${++this.#leaseCount}`
  }

  /** Waits until the lease may be free. @returns false after `MAX_WAIT_MS` */
  async #waitForHolder (
    id: string, inFlight: InFlightFill, holder: string | undefined, poller: Poller
  ): Promise<boolean> {
    // The holder may be another cache of this process, whose factory waits for the caller.
    inFlight.blockedBy = holder === undefined ? undefined : fillsByToken.get(holder)
    try {
      return await waitFor(inFlight, () => poller.wait())
    } catch (error) {
      this.#end(id, inFlight, RETRY)
      throw error
    }
  }

  /**
   * Acquires the lease of a fill, and compares the state of the key: another instance may have filled it and released
   * the lease meanwhile.
   */
  async #acquireLease (
    lookup: Lookup, lease: FillLease
  ): Promise<{ start: (LeaseState & FillStart) | undefined, isDone: boolean }> {
    const { key, tags, snapshot, pendingInvalidations } = lookup
    if (snapshot === undefined) return { start: undefined, isDone: false }
    const cache = this.#cache
    const start = await cache.resultOf(() => lease.acquire(fillTagsOf(tags), LEASE_MS, key.id), error => {
      // The lease may have been acquired although the reply was lost.
      if (!(error instanceof CircuitOpenError)) this.#addLostLease(lease, true)
    })
    if (start?.entryToken === undefined) return { start: start && sinceLookup(start, lookup), isDone: false }
    const isDone = cache.pendingInvalidations !== pendingInvalidations ||
      !isSameState(snapshot, start.entryToken, start.versions)
    if (isDone && start.kind === 'acquired') this.#release(lease, true)
    return { start, isDone }
  }

  #release (lease: FillLease, isShareable: boolean): void {
    const cache = this.#cache
    const released = cache.attempt(async () => {
      await lease.release(isShareable)
      return true
    })
    cache.inBackground(released.then(isReleased => {
      if (isReleased !== true) this.#addLostLease(lease, isShareable)
    }))
  }

  #addLostLease (lease: FillLease, isShareable: boolean): void {
    if (this.#lostLeases.size >= MAX_LOST_LEASES) return
    this.#lostLeases.add({ lease, isShareable, deadline: this.#cache.clock.monotonic() + LEASE_MS })
  }

  #announce (id: string): InFlightFill {
    const inFlight = new InFlightFill()
    this.#inFlight.set(id, inFlight)
    return inFlight
  }

  #end (id: string, inFlight: InFlightFill, outcome: FillOutcome): void {
    if (this.#inFlight.get(id) === inFlight) this.#inFlight.delete(id)
    inFlight.settle(outcome)
  }

  #lead (
    id: string, lookup: Lookup, inFlight: InFlightFill, lease: FillLease, start: (LeaseState & FillStart) | undefined
  ): Fill {
    const cache = this.#cache
    const end = (outcome: FillOutcome): void => this.#end(id, inFlight, outcome)
    if (start?.kind !== 'acquired') return new Fill(cache, lookup, start, inFlight, end)
    this.#renewals.add(lease)
    fillsByToken.set(lease.token, inFlight)
    const onFinish: OnFinish = (outcome, isShareable, isReleased) => {
      this.#renewals.remove(lease)
      end(outcome)
      fillsByToken.delete(lease.token)
      if (!isReleased) this.#release(lease, isShareable)
    }
    return new Fill(cache, lookup, start, inFlight, onFinish, lease)
  }

  /** Leads a fill that no other caller can join. */
  async #fillUnshared (lookup: Lookup): Promise<Fill> {
    const cache = this.#cache
    const start = lookup.snapshot && await cache.attempt(() => cache.store.tags(fillTagsOf(lookup.tags)))
    return new Fill(cache, lookup, start && sinceLookup(start, lookup))
  }

  /**
   * Checks what the lookup did not read: tags that only the handler named, and removals by pattern. One of these may
   * have been invalidated before the request came.
   */
  async #isCurrent ({ key, snapshot }: Lookup, { tags }: Entry, patternVersion: string | undefined): Promise<boolean> {
    if (snapshot === undefined) return true
    const unread = Object.keys(tags).filter(tag => !Object.hasOwn(snapshot.versions, tag))
    const { snapshot: now } = await this.#cache.lookup(key, [PATTERN_TAG, ...unread])
    if (now === undefined) return unread.length === 0
    return now.versions[PATTERN_TAG] === patternVersion && unread.every(tag => now.versions[tag] === tags[tag])
  }
}

const NO_OWN_TAGS: readonly string[] = [ALL_TAG, PATTERN_TAG]

/** Returns the tags whose versions a fill needs. */
function fillTagsOf (tags: readonly string[]): readonly string[] {
  return tags.length === 0 ? NO_OWN_TAGS : [...NO_OWN_TAGS, ...tags]
}

/** Returns the start of a fill with the versions of tags as they were at the lookup, where it had read them. */
function sinceLookup<S extends FillStart> (start: S, { snapshot }: Lookup): S {
  const known = Object.entries(snapshot?.versions ?? {})
    .filter((each): each is [string, string] => each[1] !== undefined)
  return { ...start, versions: { ...start.versions, ...Object.fromEntries(known) } }
}

/**
 * Returns the id of the fill that a lookup leads to: the same for all lookups with the same snapshot, on all instances.
 * Many callers share one lookup.
 */
function fillIdOf (lookup: Lookup): string {
  lookup.fillId ??= createFillId(lookup)
  return lookup.fillId
}

/** Returns the id of the fill of a key that has no entry, where none of its tags was ever invalidated. */
function firstFillId ({ id }: CacheKey): string {
  return `${id}.new`
}

function createFillId ({ key, snapshot, acquired, pendingInvalidations }: Lookup): string {
  if (snapshot === undefined) return `${key.id}.${pendingInvalidations}`
  if (acquired !== undefined) return firstFillId(key)
  // A tag that was never invalidated has its first version (`0-…`) or none yet: both give the same id.
  const versions = Object.entries(snapshot.versions).map(([tag, version]) => [tag, invalidatedVersion(version)])
  const isNew = snapshot.token === '' && versions.every(([, version]) => version === undefined)
  if (isNew && pendingInvalidations === 0) return firstFillId(key)
  const parts = [snapshot.token, versions, ...pendingInvalidations > 0 ? [pendingInvalidations] : []]
  return `${key.id}.${hashId(JSON.stringify(parts)).slice(0, 16)}`
}

/** Whether a key and its tags are what they were at a lookup. */
function isSameState (
  snapshot: KeyVersions, token: CasToken, versions: Readonly<Record<string, string | undefined>>
): boolean {
  if (token !== snapshot.token) return false
  for (const tag in snapshot.versions) {
    if (invalidatedVersion(versions[tag]) !== invalidatedVersion(snapshot.versions[tag])) return false
  }
  return true
}

/** Returns the version of a tag; undefined for one that was never invalidated. */
function invalidatedVersion (version: string | undefined): string | undefined {
  return version?.startsWith(FIRST_VERSION) ? undefined : version
}
