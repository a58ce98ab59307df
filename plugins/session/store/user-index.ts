import type { SessionStatsCounter } from '../stats.js'
import { storeUnavailable, TooManySessionsError } from '../errors.js'
import type { SessionStore, StoredInfo } from './store.js'

// A page occupies Redis for a short time, and is within the deadline.
const PAGE = 200
// Concurrent logins may take the same free place: each failed try is another login's success.
const MAX_TRIES = 100

interface UserLimit {
  /** 0: any number. */
  maxPerUser: number
  onMaxPerUser: 'drop-oldest' | 'refuse'
}

type Run = <T>(operation: () => Promise<T>) => Promise<T>

/**
 * The sessions of users, by digests of their ids. The index may name sessions that have ended, and each reader removes
 * them.
 */
export class UserIndex {
  readonly #store: SessionStore
  readonly #run: Run
  readonly #limit: UserLimit
  readonly #stats: SessionStatsCounter
  readonly #onEnd: (handle: string) => void

  /**
   * @param run - calls the store within the deadline and the circuit
   * @param onEnd - called with the handle of each destroyed session
   */
  constructor (
    store: SessionStore, run: Run, limit: UserLimit, stats: SessionStatsCounter,
    onEnd: (handle: string) => void = () => {}
  ) {
    this.#store = store
    this.#onEnd = onEnd
    this.#stats = stats
    this.#run = async operation => await run(operation).catch((error: unknown) => { throw storeUnavailable(error) })
    this.#limit = limit
  }

  /** Adds a session. @throws `FST_REDIS_SUITE_SESSION_TOO_MANY` */
  async enter (user: string, handle: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      const others = await this.#run(() => this.#store.enter(user, handle, this.#limit.maxPerUser))
      if (others === undefined) return
      const isRoom = await this.#makeRoom(user, others)
      if (!isRoom || tries === MAX_TRIES) throw new TooManySessionsError(this.#limit.maxPerUser)
    }
  }

  /**
   * @param leaving - the handle of a session that is about to end
   * @throws `FST_REDIS_SUITE_SESSION_TOO_MANY` if another session would be refused
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

  /** Destroys a session. @returns whether there was one */
  async destroy (handle: string): Promise<boolean> {
    const user = await this.#run(() => this.#store.destroy(handle))
    this.#onEnd(handle)
    if (user !== undefined) this.#stats.destroyed()
    if (typeof user === 'string') await this.leave(user, handle)
    return user !== undefined
  }

  async list (user: string): Promise<StoredInfo[]> {
    const found: StoredInfo[] = []
    await this.#eachPage(user, async handles => {
      const live = await this.#live(user, handles)
      found.push(...live.filter(info => info.user === user))
      return live.length
    })
    return found
  }

  /** Destroys the sessions that the user has now, and returns their number. */
  async destroyAll (user: string, except: string | undefined): Promise<number> {
    let count = 0
    await this.#eachPage(user, async handles => {
      const live = await this.#live(user, handles)
      const handlesToEnd = live.map(({ handle }) => handle).filter(handle => handle !== except)
      const owners = await this.#run(() => Promise.all(handlesToEnd.map(handle => this.#store.destroy(handle))))
      for (const handle of handlesToEnd) this.#onEnd(handle)
      const destroyed = owners.filter(owner => owner !== undefined).length
      this.#stats.destroyed(destroyed)
      await this.#run(() => this.#store.leave(user, handlesToEnd))
      count += destroyed
      return handles.includes(except ?? '') ? 1 : 0
    })
    return count
  }

  /** @param work - returns how many handles of the page stay in the index */
  async #eachPage (user: string, work: (handles: readonly string[]) => Promise<number>): Promise<void> {
    const until = await this.#run(() => this.#store.now(user))
    for (let from = 0; ;) {
      const handles = await this.#run(() => this.#store.members(user, until, from, PAGE))
      if (handles.length === 0) return
      from += await work(handles)
    }
  }

  /**
   * Removes handles whose session has ended or has another user. A session without a user is about to become this
   * user's.
   */
  async #live (user: string, handles: readonly string[]): Promise<StoredInfo[]> {
    const infos = await this.#run(() => this.#store.infos(handles))
    const present = infos.filter(info => info !== undefined).filter(info =>
      info.user === undefined || info.user === user)
    const live = new Set(present.map(({ handle }) => handle))
    const ended = handles.filter(handle => !live.has(handle))
    if (ended.length > 0) await this.#run(() => this.#store.leave(user, ended))
    return present
  }

  /** Ends the oldest sessions, if the options allow it. @returns whether there is room now */
  async #makeRoom (user: string, handles: readonly string[]): Promise<boolean> {
    const live = await this.#live(user, handles)
    const tooMany = live.length - this.#limit.maxPerUser + 1
    if (tooMany <= 0) return true
    if (this.#limit.onMaxPerUser === 'refuse') return false
    await Promise.all(live.slice(0, tooMany).map(({ handle }) => this.destroy(handle)))
    return true
  }
}
