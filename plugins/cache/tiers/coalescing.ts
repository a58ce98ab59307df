import { randomUUID } from 'node:crypto'
import { sleep, type Clock, type Timer } from '../../shared/plugin/clock.js'
import { hashId } from '../../shared/plugin/keys.js'
import type { TwoTierCache, Lookup } from './two-tier-cache.js'
import type { Entry } from '../store/entry.js'
import { refuseCycle, waitFor, type WaitTarget } from './wait-for-graph.js'
import { ALL_TAG, PATTERN_TAG, type FillLease } from '../store/store.js'

/** Who makes an entry tells so every third of this; whoever dies is succeeded after it. */
const LEASE_MS = 1500
/** Nobody waits longer for another one's work. */
export const MAX_WAIT_MS = 5000
const FIRST_POLL_MS = 8
const MAX_POLL_MS = 100
/** How often who waited looks again because what it waited for was invalidated meanwhile. */
export const MAX_LOOKUPS = 5
/** After this a claim is no longer kept: something hangs. */
const MAX_FILL_MS = 10 * 60 * 1000

/** By the token of its claim, what each cache of this process works on. */
const holders = new Map<string, WaitTarget>()

/** What came of a work: an entry that those may use who waited for it, perhaps in place of an error; the error; that they are to look again; or nothing. */
type FillOutcome = { entry: Entry, isFallback: boolean } | { error: unknown } | 'again' | undefined

/** A making in this process. */
interface InFlightFill extends WaitTarget {
  readonly done: Promise<FillOutcome>
  /** The version that the tag of removals by pattern had when it began; undefined: the store did not tell. */
  patterns: string | undefined
  /** How many others wait for it. */
  waiting: number
  /** Called when one of them gave up. */
  onLeft: () => void
  /** Lets those go on who wait; who comes later has it at once. */
  settle (outcome: FillOutcome): void
  /** The same, and it is over. */
  end (outcome: FillOutcome): void
}

/** The making of one entry. */
export interface Fill {
  readonly lookup: Lookup
  /** What others wait for. */
  readonly waitTarget: WaitTarget
  /** When it began, by the store's clock: milliseconds since the epoch. */
  readonly startedAt: number
  /** Of all its tags; undefined where nothing can be stored. */
  readonly versions: Readonly<Record<string, string>> | undefined
  /**
   * Lets the others go on. Only the first call counts.
   *
   * @param entry - for those in this process; undefined: each makes his own
   * @param isStored - whether those on other instances find it
   */
  finish (entry: Entry | undefined, isStored?: boolean): void
  /** It cannot be made: gives the others what there was before. */
  fulfilStale (entry: Entry): void
  /** It cannot be made, and the others in this process need not try. */
  fail (error: unknown): void
  /** What was made is too old for some of the others: they look again. */
  retry (): void
  /** Whether others of this process wait for it. */
  readonly isAwaited: boolean
  /** @param listener - called when one of them gave up */
  onLeft (listener: () => void): void
  /** Stores it, in the background, for the others and lets them go on. */
  store (entry: Entry): Promise<boolean>
}

/**
 * - `fill`: the caller is to make it
 * - `entry`: another one of this process has made it
 * - `error`: another one of this process could not make it
 * - `again`: another instance has stored it, or it was invalidated meanwhile: look again
 */
export type Admission = { fill: Fill } | { entry: Entry, isFallback: boolean } | { error: unknown } | 'again'

/**
 * Of all who find that something is not there, on all instances, one makes it. The others wait, with an end; and if it
 * turns out that they cannot use it, all of them go on at once.
 */
export class FillCoordinator {
  readonly #core: TwoTierCache
  readonly #working = new Map<string, InFlightFill>()

  constructor (core: TwoTierCache) {
    this.#core = core
  }

  /**
   * @param patience - for how many milliseconds another one of this process is waited for, at most
   * @param signal - of a caller who may give up
   * @throws `FST_REDIS_SUITE_CACHE_REENTRANT` where the work waits for the factory that asks
   */
  async join (lookup: Lookup, patience = MAX_WAIT_MS, signal?: AbortSignal): Promise<Admission> {
    // By what was seen: work that began before an invalidation is not what comes after it.
    const work = inFlightFillOf(lookup)
    const present = this.#working.get(work)
    if (present === undefined) return await this.#leadFill(work, lookup)
    refuseCycle(present)
    this.#core.count(lookup.key, 'coalesced')
    const leave = addWaiter(present, signal)
    const outcome = await waitFor(present, () => patience === Infinity ? present.done : withMaxWait(this.#core.clock, present.done, patience))
    signal?.removeEventListener('abort', leave)
    if (outcome === undefined) return { fill: await this.#fillUnshared(work, lookup) }
    if (outcome === 'again' || 'error' in outcome) return outcome
    return await this.#isRightFor(lookup, outcome.entry, present.patterns) ? outcome : 'again'
  }

  /**
   * Checks what the lookup did not read: tags that only the handler named, and removals by pattern. One of these may have been invalidated
   * before the request came.
   */
  async #isRightFor ({ key, snapshot }: Lookup, { tags }: Entry, patterns: string | undefined): Promise<boolean> {
    if (snapshot === undefined) return true
    const unseen = Object.keys(tags).filter(tag => !Object.hasOwn(snapshot.versions, tag))
    const { snapshot: now } = await this.#core.lookup(key, [PATTERN_TAG, ...unseen])
    if (now === undefined) return unseen.length === 0
    return now.versions[PATTERN_TAG] === patterns && unseen.every(tag => now.versions[tag] === tags[tag])
  }

  /** The same, but without waiting: undefined where it is being made already. */
  async tryLead (lookup: Lookup): Promise<Fill | undefined> {
    const work = inFlightFillOf(lookup)
    if (this.#working.has(work)) return undefined
    const announced = this.#announce(work)
    const token = randomUUID()
    const { begun, isDone } = await this.#acquireLease(work, token, lookup)
    if (begun?.claim === 'mine' && !isDone) return this.#fill(work, lookup, token, begun, announced)
    announced.end('again')
    return undefined
  }

  async #leadFill (work: string, lookup: Lookup): Promise<Admission> {
    const announced = this.#announce(work)
    const token = randomUUID()
    const { clock } = this.#core
    const end = clock.monotonic() + MAX_WAIT_MS
    for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 1.5, MAX_POLL_MS)) {
      const { begun, isDone } = await this.#acquireLease(work, token, lookup)
      if (isDone) {
        announced.end('again')
        return 'again'
      }
      if (begun?.claim !== 'theirs' || clock.monotonic() > end) return { fill: this.#fill(work, lookup, begun?.claim === 'mine' ? token : undefined, begun, announced) }
      await this.#waitForHolder(announced, begun.holder, pause)
    }
  }

  /** It may be another cache of this process that works for the one that asks. */
  async #waitForHolder (announced: InFlightFill, holder: string | undefined, ms: number): Promise<void> {
    announced.blockedBy = holder === undefined ? undefined : holders.get(holder)
    try {
      await waitFor(announced, () => sleep(this.#core.clock, ms))
    } catch (error) {
      announced.end('again')
      throw error
    }
  }

  /** Claims a work, and looks whether it was done, and given back, since it was looked up. */
  async #acquireLease (work: string, token: string, lookup: Lookup): Promise<{ begun: FillLease | undefined, isDone: boolean }> {
    if (lookup.snapshot === undefined) return { begun: undefined, isDone: false }
    // In this order on one connection.
    const [begun, now] = await Promise.all([this.#core.acquireFill(work, token, unknownTags(lookup), LEASE_MS), this.#core.lookup(lookup.key, lookup.tags)])
    const isDone = now.snapshot !== undefined && inFlightFillOf(now) !== work
    if (isDone && begun?.claim === 'mine') this.#core.end(work, token, false)
    return { begun, isDone }
  }

  /** Beside the others, for nobody else. */
  async #fillUnshared (work: string, lookup: Lookup): Promise<Fill> {
    const begun = lookup.snapshot && await this.#core.acquireFill(`${work}:${randomUUID()}`, randomUUID(), unknownTags(lookup), 1)
    return this.#fill(work, lookup, undefined, begun, undefined)
  }

  #announce (work: string): InFlightFill {
    let settle = (_outcome: FillOutcome): void => {}
    const announced: InFlightFill = {
      done: new Promise(resolve => { settle = resolve }),
      patterns: undefined,
      waiting: 0,
      onLeft: () => {},
      settle: outcome => settle(outcome),
      end: outcome => {
        if (this.#working.get(work) === announced) this.#working.delete(work)
        settle(outcome)
      }
    }
    this.#working.set(work, announced)
    return announced
  }

  #fill (work: string, lookup: Lookup, token: string | undefined, begun: FillLease | undefined, announced: InFlightFill | undefined): Fill {
    const core = this.#core
    const keep = token === undefined ? undefined : renewLease(core.clock, () => core.renewFill(work, token, LEASE_MS))
    const versions = begun && { ...begun.versions, ...knownVersions(lookup) }
    if (announced !== undefined) announced.patterns = versions?.[PATTERN_TAG]
    const made: WaitTarget = announced ?? {}
    if (token !== undefined) holders.set(token, made)
    let isFinished = false
    const finish = (outcome: FillOutcome, isStored: boolean): void => {
      if (isFinished) return
      isFinished = true
      core.clock.clearInterval(keep)
      announced?.end(outcome)
      if (token === undefined) return
      holders.delete(token)
      core.end(work, token, !isStored)
    }
    return {
      lookup,
      waitTarget: made,
      startedAt: begun?.now ?? core.now(),
      versions,
      get isAwaited () { return announced !== undefined && announced.waiting > 0 },
      onLeft (listener) { if (announced !== undefined) announced.onLeft = listener },
      finish: (entry, isStored = false) => finish(entry && { entry, isFallback: false }, isStored),
      fulfilStale: entry => finish({ entry, isFallback: true }, false),
      fail: error => finish({ error }, false),
      retry: () => finish('again', true),
      async store (entry) {
        // Whoever waits in this process saw what this one saw, so it is as right for them, and at once; on another one, they look.
        announced?.settle({ entry, isFallback: false })
        const stored = versions !== undefined && await core.write(lookup, entry, versions)
        finish({ entry, isFallback: false }, stored)
        return stored
      }
    }
  }
}

/** @returns what is called when the caller gives up */
function addWaiter (work: InFlightFill, signal: AbortSignal | undefined): () => void {
  const leave = (): void => {
    work.waiting--
    work.onLeft()
  }
  work.waiting++
  if (signal?.aborted) leave()
  else signal?.addEventListener('abort', leave, { once: true })
  return leave
}

/** The tags that had no version yet. */
function unknownTags ({ tags, snapshot }: Lookup): string[] {
  return [ALL_TAG, PATTERN_TAG, ...tags].filter(tag => snapshot?.versions[tag] === undefined)
}

/** As they were at the look-up. */
function knownVersions ({ snapshot }: Lookup): Record<string, string> {
  return Object.fromEntries(Object.entries(snapshot?.versions ?? {}).filter((known): known is [string, string] => known[1] !== undefined))
}

function renewLease (clock: Clock, renew: () => void): Timer {
  const until = clock.monotonic() + MAX_FILL_MS
  const timer = clock.setInterval(() => {
    if (clock.monotonic() < until) renew()
    else clock.clearInterval(timer)
  }, LEASE_MS / 3)
  return timer.unref()
}

/** The same for all who saw the same; a tag that was never invalidated may or may not have its first version yet. */
function inFlightFillOf (lookup: Lookup): string {
  const known = inFlightFills.get(lookup)
  if (known !== undefined) return known
  const work = nameOf(lookup)
  inFlightFills.set(lookup, work)
  return work
}

// Many share one look-up.
const inFlightFills = new WeakMap<Lookup, string>()

function nameOf ({ key, snapshot, pendingInvalidations }: Lookup): string {
  if (snapshot === undefined) return `${key.id}.${pendingInvalidations}`
  const versions = Object.entries(snapshot.versions).map(([tag, version]) => [tag, version?.startsWith('0-') ? undefined : version])
  return `${key.id}.${hashId(JSON.stringify([snapshot.token, versions, ...pendingInvalidations > 0 ? [pendingInvalidations] : []])).slice(0, 16)}`
}

function withMaxWait (clock: Clock, work: Promise<FillOutcome>, patience: number): Promise<FillOutcome> {
  return new Promise(resolve => {
    const timer = clock.setTimeout(() => resolve(undefined), patience)
    work.then(outcome => { clock.clearTimeout(timer); resolve(outcome) }, () => resolve(undefined))
  })
}
