import type { SessionStatsCounter } from '../stats.js'
import { StoreUnavailableError, TooManySessionsError } from '../errors.js'
import type { SessionStore, StoredInfo } from './store.js'

// So that Redis is not kept from others for long, and each page is in time.
const PAGE = 200
// How often a place that another one may take first is tried to be had: each time in vain one more of those who log in at once is in.
const MOST_TRIES = 100

export interface UserLimit {
  /** 0: any number. */
  maxPerUser: number
  onMaxPerUser: 'drop-oldest' | 'refuse'
}

type Run = <T>(operation: () => Promise<T>) => Promise<T>

/** The sessions of users, who are told apart by digests. The index may name sessions that are gone: whoever finds one takes it out. */
export class UserIndex {
  readonly #store: SessionStore
  readonly #run: Run
  readonly #limit: UserLimit
  readonly #counts: SessionStatsCounter
  readonly #onEnd: (handle: string) => void

  /**
   * @param run - calls the store by the policy on failure
   * @param onEnd - called with each session that was destroyed
   */
  constructor (store: SessionStore, run: Run, limit: UserLimit, counts: SessionStatsCounter, onEnd: (handle: string) => void = () => {}) {
    this.#store = store
    this.#onEnd = onEnd
    this.#counts = counts
    this.#run = async operation => await run(operation).catch(() => { throw new StoreUnavailableError() })
    this.#limit = limit
  }

  /** @throws `FST_REDIS_SUITE_SESSION_TOO_MANY` where there is no room */
  async enter (user: string, handle: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      const others = await this.#run(() => this.#store.enter(user, handle, this.#limit.maxPerUser))
      if (others === undefined) return
      const isRoom = await this.#makeRoom(user, others)
      if (!isRoom || tries === MOST_TRIES) throw new TooManySessionsError(this.#limit.maxPerUser)
    }
  }

  /**
   * @param leaving - one that is about to end
   * @throws `FST_REDIS_SUITE_SESSION_TOO_MANY` where one more would not be let in
   */
  async requireRoom (user: string, leaving?: string): Promise<void> {
    const { maxPerUser, onMaxPerUser } = this.#limit
    if (maxPerUser === 0 || onMaxPerUser === 'drop-oldest') return
    const others = (await this.list(user)).filter(({ handle }) => handle !== leaving)
    if (others.length >= maxPerUser) throw new TooManySessionsError(maxPerUser)
  }

  async leave (user: string, handle: string): Promise<void> {
    await this.#run(() => this.#store.leave(user, [handle]))
  }

  /** @returns whether there was one */
  async destroy (handle: string): Promise<boolean> {
    const user = await this.#run(() => this.#store.destroy(handle))
    this.#onEnd(handle)
    if (user !== undefined) this.#counts.destroyed()
    if (typeof user === 'string') await this.leave(user, handle)
    return user !== undefined
  }

  async list (user: string): Promise<StoredInfo[]> {
    const found: StoredInfo[] = []
    await this.#eachPage(user, async handles => {
      const alive = await this.#alive(user, handles)
      found.push(...alive.filter(info => info.user === user))
      return alive.length
    })
    return found
  }

  /** Ends those that there are now. @returns how many */
  async destroyAll (user: string, except: string | undefined): Promise<number> {
    let count = 0
    await this.#eachPage(user, async handles => {
      const doomed = (await this.#alive(user, handles)).map(({ handle }) => handle).filter(handle => handle !== except)
      const owners = await this.#run(() => Promise.all(doomed.map(handle => this.#store.destroy(handle))))
      for (const handle of doomed) this.#onEnd(handle)
      const destroyed = owners.filter(owner => owner !== undefined).length
      this.#counts.destroyed(destroyed)
      await this.#run(() => this.#store.leave(user, doomed))
      count += destroyed
      return handles.includes(except ?? '') ? 1 : 0
    })
    return count
  }

  /** @param work - says how many of a page are still in the index */
  async #eachPage (user: string, work: (handles: readonly string[]) => Promise<number>): Promise<void> {
    const until = await this.#run(() => this.#store.now(user))
    for (let from = 0; ;) {
      const handles = await this.#run(() => this.#store.members(user, until, from, PAGE))
      if (handles.length === 0) return
      from += await work(handles)
    }
  }

  /** Takes those out of the index that are gone, or another's by now. One that is nobody's is about to be this user's. */
  async #alive (user: string, handles: readonly string[]): Promise<StoredInfo[]> {
    const infos = await this.#run(() => this.#store.infos(handles))
    const alive = infos.filter(info => info !== undefined).filter(info => info.user === undefined || info.user === user)
    const kept = new Set(alive.map(({ handle }) => handle))
    const gone = handles.filter(handle => !kept.has(handle))
    if (gone.length > 0) await this.#run(() => this.#store.leave(user, gone))
    return alive
  }

  /** @returns whether there is room now */
  async #makeRoom (user: string, handles: readonly string[]): Promise<boolean> {
    const alive = await this.#alive(user, handles)
    const tooMany = alive.length - this.#limit.maxPerUser + 1
    if (tooMany <= 0) return true
    if (this.#limit.onMaxPerUser === 'refuse') return false
    await Promise.all(alive.slice(0, tooMany).map(({ handle }) => this.destroy(handle)))
    return true
  }
}
