import type { FastifySessionOptions, SessionStore as FastifySessionStore } from '@fastify/session'
import type { FastifyBaseLogger, FastifyRequest, Session } from 'fastify'
import { LRUCache } from 'lru-cache'
import type { AnyRequest } from '../shared/http/any-request.js'
import { systemClock, type Clock } from '../shared/plugin/clock.js'
import { describe, reasonOf } from '../shared/plugin/errors.js'
import { hashId } from '../shared/plugin/keys.js'
import { handled, isPromise } from '../shared/plugin/maybe-promise.js'
import { traced } from '../shared/plugin/tracing.js'
import { protectCallbacks } from './callbacks.js'
import type { Encryption } from './store/encryption.js'
import type { SessionStatsCounter } from './stats.js'
import { checkAttributes, checkIsCookie, dateOf, repairCookie } from './cookie/cookie-rules.js'
import { cookieToStore, isAsBefore, takeCookieSnapshot, type CookieSnapshot } from './cookie/cookie.js'
import { InvalidSessionError, StoreUnavailableError } from './errors.js'
import { contentsOf, diff, diffContents, joinFields, parseFields, refuseLosses, takeSnapshot, textOrNone, type FieldChanges, type SessionSnapshot } from './session-diff.js'
import { stateOf, type KnownSession } from './session-state.js'
import type { SessionStore, StoredSession } from './store/store.js'
import { digestOfFound } from './user-id.js'
import type { UserIndex } from './store/user-index.js'

/** What is being made an object. */
interface Reading {
  sessionId: string
  known: KnownSession
  /** What it holds, where that is not in the object yet. */
  data?: Session
}

export interface SuiteSessionStoreOptions {
  store: SessionStore
  /** Calls the store by the policy on failure. */
  run: <T>(operation: () => Promise<T>) => Promise<T>
  cipher: Encryption | undefined
  /** What is said of all cookies. */
  cookie: NonNullable<FastifySessionOptions['cookie']>
  /** See {@link renewalOf}. */
  renewal: number
  users: UserIndex
  counts: SessionStatsCounter
  userId: (session: Session) => unknown
  /** Whether a request whose session cannot be read goes on without one. */
  allowsAnonymous: boolean
  clock: Clock
  log: FastifyBaseLogger
}

/** Our store behind the interface that `@fastify/session` wants. */
export class SuiteSessionStore implements FastifySessionStore {
  readonly #options: SuiteSessionStoreOptions
  readonly #anonymous = new WeakSet<AnyRequest>()
  /** Ids of the sessions that stand for those that could not be read. */
  readonly #standIns = new LRUCache<string, true>({ max: 10_000 })
  /** Requests that have ended their session, with its cookie as it was read. */
  readonly #ended = new WeakMap<FastifyRequest, CookieSnapshot | undefined>()
  /** Sessions that `request.session = null` destroys, while that is in progress. */
  readonly #ending = new WeakMap<FastifyRequest, Promise<unknown>>()
  readonly #abandoned = new WeakSet<Session>()
  readonly #unsaved = new WeakSet<Session>()
  #reading: Reading | undefined
  /** What to call with an error, while a request begins. */
  #begin: ((error: unknown) => void) | undefined
  /** Id of the session that could not be read. */
  #failing: string | undefined
  #isRefusing = false
  #isDestroying = false
  #hasWarned = false
  #hasWarnedOfCookie = false

  constructor (options: SuiteSessionStoreOptions) {
    this.#options = options
  }

  /**
   * What is read within this is for a request that begins.
   *
   * @param work - is given what is to be called before it goes on with anything else
   * @param fail - is given what `@fastify/session` throws when the store has replied
   */
  atBegin (work: (end: () => void) => void, fail: (error: unknown) => void): void {
    const end = () => { this.#begin = undefined }
    this.#begin = fail
    try {
      work(end)
    } finally {
      end()
    }
  }

  get (sessionId: string, callback: (error: unknown, session?: Session | null) => void): void {
    const handle = hashId(sessionId)
    const fail = this.#begin
    traced('session read', () => this.#options.store.read(handle)).then(stored => {
      const found = stored === undefined ? undefined : this.#open(handle, stored)
      // `@fastify/session` makes its object of what it is given, and goes on to the next hook within this. Of one that is gone too:
      // `reload` keeps its id, under which nothing may be created.
      this.#reading = { sessionId, known: found?.known ?? { changeTo: after => diff({}, after), version: '', user: undefined, isGone: true } }
      try {
        if (found === undefined || fail === undefined) return callback(null, found?.data ?? null)
        // Of all that it is given its object makes a digest: of the cookie alone that is quick, and the rest follows in `accept`.
        this.#reading.data = found.data
        callback(null, { cookie: found.data.cookie } as Session)
      } catch (error) {
        this.#report(error, fail)
      } finally {
        this.#reading = undefined
      }
    }, () => {
      if (!this.#options.allowsAnonymous) return this.#refuse(callback)
      this.#failing = sessionId
      try {
        callback(null, null)
      } catch (error) {
        this.#report(error, fail)
      } finally {
        this.#failing = undefined
      }
    })
  }

  /** @param callback - is told, too, whether there was something to save */
  set (sessionId: string, session: Session, callback: (error?: unknown, isSaved?: boolean) => void): void {
    if (this.#isRefusing || this.#standIns.has(sessionId)) return this.#refuse(callback)
    // One after the other: each has to know what the one before it saved.
    const state = stateOf(session)
    const save = () => traced('session write', () => this.#save(sessionId, session))
    const saved = state.saved === undefined ? save() : state.saved.catch(() => {}).then(save)
    state.saved = saved
    saved.then(isSaved => {
      this.#unsaved.delete(session)
      this.#call(() => callback(undefined, isSaved))
    }, error => {
      if (error instanceof StoreUnavailableError) this.#unsaved.add(session)
      this.#refuse(callback, error)
    })
  }

  destroy (sessionId: string, callback: (error?: unknown) => void): void {
    if (this.#standIns.has(sessionId)) return this.#refuse(callback)
    this.#options.users.destroy(hashId(sessionId)).then(() => {
      // `session.destroy` sets the request's session to null within this.
      this.#isDestroying = true
      this.#call(callback)
      this.#isDestroying = false
    }, () => this.#refuse(callback))
  }

  /**
   * Ties what was read to the session that is made of it, whoever made it: the hook, `reload`, `decryptSession`.
   *
   * @param before - the request's session until now
   * @returns whether it is to be the request's session: not where what failed is to change nothing
   * @throws `FST_REDIS_SUITE_SESSION_INVALID_SESSION`
   */
  accept (request: FastifyRequest, session: FastifyRequest['session'] | null | undefined, before?: FastifyRequest['session'] | null): boolean {
    if (this.#isRefusing || (this.#failing !== undefined && session?.sessionId === this.#failing)) return false
    if (session === null || session === undefined) {
      if (before?.sessionId !== undefined) this.#end(request, before)
    } else if (this.#failing !== undefined) {
      this.#anonymous.add(request)
      this.#standIns.set(session.sessionId, true)
    } else if (this.#reading !== undefined && this.#reading.sessionId === session.sessionId) {
      stateOf(session).known = this.#reading.known
      this.#reading.known.cookie = takeCookieSnapshot(session.cookie)
      if (this.#reading.data !== undefined) this.#complete(session, this.#reading.data)
      delete this.#reading.data
    }
    if (session?.sessionId !== undefined) {
      stateOf(session).request = request
      protectCallbacks(session)
    } else if (session && this.#begin === undefined) {
      // `@fastify/session` begins each request with an empty object; one of the app's would not be saved.
      throw new InvalidSessionError(describe(session))
    }
    return true
  }

  /** Whether the request's session was destroyed. */
  hasEnded (request: FastifyRequest): boolean {
    return this.#ended.has(request)
  }

  /** The cookie of the session that the request has ended; undefined where none was read. */
  cookieOfEnded (request: FastifyRequest): CookieSnapshot | undefined {
    return this.#ended.get(request)
  }

  /** Returns what the response waits for, where `request.session = null` destroys a session. It rejects while the store is unavailable. */
  takeEnding (request: FastifyRequest): Promise<unknown> | undefined {
    const ending = this.#ending.get(request)
    if (ending !== undefined) this.#ending.delete(request)
    return ending
  }

  /** What could not be saved, or a login that failed has made of a session, is not saved when the reply is sent; and the cookie of one that was destroyed is not sent. */
  abandon (session: Session): void {
    this.#abandoned.add(session)
  }

  /** Whether the last save of the session failed because the store was unavailable. */
  isUnsaved (session: Session): boolean {
    return this.#unsaved.has(session)
  }

  isAbandoned (session: Session): boolean {
    return this.#abandoned.has(session)
  }

  /** Whether the request's session could not be read, so that nobody knows whose it is. */
  isAnonymous (request: AnyRequest): boolean {
    return this.#anonymous.has(request)
  }

  /** Whether this request has made it and nothing of it has been saved: nobody knows its id. */
  isNew (session: Session): boolean {
    const { known, saved } = stateOf(session)
    return known === undefined && saved === undefined
  }

  /** Whether the session came out of the store. */
  isStored (session: Session): boolean {
    return stateOf(session).known !== undefined
  }

  /** Calls a function with the session's handle when it is stored: at once, where it is. One that has ended is stored no more. */
  whenStored (session: Session & { sessionId: string }, call: (handle: string) => void): void {
    const state = stateOf(session)
    const go = () => call(hashId(session.sessionId))
    if (state.known === undefined) (state.onStored ??= []).push(go)
    else go()
  }

  /** @returns the milliseconds until the session ends unless it is used; 0 for one that has ended */
  async lifeOf (handle: string): Promise<number> {
    const { store, run } = this.#options
    const [life, stored] = await Promise.all([run(() => store.lifeOf(handle)), store.read(handle)])
    const data = stored && this.#parse(handle, stored)
    if (data === undefined) return 0
    const { expires } = (data['cookie'] ?? {}) as Partial<Session['cookie']>
    const expiresAt = dateOf(expires)?.getTime() ?? Infinity
    // By the clock that `@fastify/session` reads, and which the session ends by as well.
    return Math.max(0, Math.min(life, expiresAt - systemClock.now()))
  }

  /**
   * Whether it is as it was read: quicker to tell than by the digests of `@fastify/session`, which take what they cannot tell for nothing.
   *
   * @throws `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`
   */
  isUntouched (session: Session): boolean {
    const contents = contentsOf(session)
    refuseLosses(session)
    const { known } = stateOf(session)
    return contents === known?.contents && known.cookie !== undefined && isAsBefore(session.cookie, known.cookie)
  }

  /** `request.session` is null from now on: by `destroy`, or by an app, whose session would go on. */
  #end (request: FastifyRequest, session: FastifyRequest['session']): void {
    const isAnonymous = this.isAnonymous(request)
    this.#ended.set(request, stateOf(session).known?.cookie)
    if (this.#isDestroying || (this.isNew(session) && !isAnonymous)) return
    const destroyed = isAnonymous ? Promise.reject(new StoreUnavailableError()) : this.#options.users.destroy(hashId(session.sessionId))
    this.#ending.set(request, handled(destroyed.catch(error => {
      // As after a logout that failed, the client keeps its cookie.
      this.#ended.delete(request)
      throw error
    })))
  }

  #complete (session: Session, data: Session): void {
    Object.assign(session, { ...data, cookie: session.cookie })
    // By the digest of the cookie alone each would be.
    const isModified = () => this.#isModified(session)
    Object.defineProperty(session, 'isModified', { get: () => isModified, set: ignore })
  }

  #isModified (session: Session): boolean {
    const { change } = this.#changeOf(session)
    return [...Object.keys(change.set), ...change.delete].some(name => name !== 'cookie')
  }

  /** `regenerate` goes on within this to save a new session, and puts it in the request's, as `destroy` does null: neither is to be. */
  #refuse (callback: (error: unknown) => void, error: unknown = new StoreUnavailableError()): void {
    this.#isRefusing = true
    try {
      this.#call(() => callback(error))
    } finally {
      this.#isRefusing = false
    }
  }

  /** Nothing would catch what a callback throws now. */
  #call (callback: () => void): void {
    try {
      callback()
    } catch (error) {
      this.#report(error)
    }
  }

  #report (error: unknown, fail?: (error: unknown) => void): void {
    if (fail !== undefined) return fail(error)
    this.#options.log.error({ plugin: 'session', reason: reasonOf(error) }, 'session: a callback failed')
  }

  #open (handle: string, stored: StoredSession): { data: Session, known: KnownSession } | undefined {
    const { store, run, log, renewal, counts, clock } = this.#options
    const { version, user, lastSeenAt } = stored
    const data = this.#parse(handle, stored)
    const contents = data && textOrNone(() => contentsOf(data))
    if (data === undefined || contents === undefined) {
      if (!this.#hasWarned) log.warn({ plugin: 'session' }, 'session: a stored session cannot be read and counts as none; no more is said of others')
      this.#hasWarned = true
      return undefined
    }
    // Whichever clock is wrong: rather once too often. Nobody waits for it, and it comes again with the next request.
    if (Math.abs(clock.now() - lastSeenAt) > renewal) {
      counts.seen()
      run(() => store.renew(handle, user)).catch(() => {})
    }
    // As text: what was given is the session's own by then.
    const cookie = textOrNone(() => JSON.stringify(data['cookie']))
    if (data['cookie'] !== undefined) data['cookie'] = this.#repaired(data['cookie'])
    const changeTo = (after: SessionSnapshot) => diffContents([cookie && `"cookie":${cookie}`, contents].filter(Boolean).join(), after)
    return { data: data as unknown as Session, known: { changeTo, contents, version, user } }
  }

  #parse (handle: string, { text, isSealed }: StoredSession): Record<string, unknown> | undefined {
    const { cipher } = this.#options
    const open = cipher && ((name: string, sealed: unknown) => typeof sealed === 'string' ? cipher.open(sealed, handle, name) : undefined)
    return isSealed === (cipher !== undefined) ? parseFields(text, open) : undefined
  }

  /** A stored attribute that cannot be sent is ignored: the option `cookie` has another one. */
  #repaired (stored: unknown): unknown {
    const repaired = repairCookie(stored)
    if (repaired === undefined) return stored
    if (!this.#hasWarnedOfCookie) this.#options.log.warn({ plugin: 'session' }, 'session: attributes of a stored cookie cannot be sent and are ignored; those of the option cookie are used (logged once)')
    this.#hasWarnedOfCookie = true
    return repaired
  }

  /**
   * Writes what changed, and whose it is where that changed: first the index, as what is in none could not be found to be destroyed.
   *
   * @returns whether there was something to save
   */
  async #save (sessionId: string, session: Session): Promise<boolean> {
    const { store, users, userId } = this.#options
    const handle = hashId(sessionId)
    const state = stateOf(session)
    const before = state.known
    if (before?.isGone) {
      this.abandon(session)
      return false
    }
    checkCookieOf(session, state.request !== undefined)
    const { after, change } = this.#changeOf(session)
    const found = userId(session)
    const user = digestOfFound(isPromise(found) ? await found : found)
    const hasMoved = user !== before?.user
    if (before !== undefined && !hasMoved && Object.keys(change.set).length === 0 && change.delete.length === 0) return false
    const sealed = { isSealed: this.#options.cipher !== undefined, delete: change.delete }
    if (user !== undefined && hasMoved) {
      // Whoever finds something in the index that is not there takes it out.
      if (before === undefined) await this.#attempt(() => store.write(handle, { ...sealed, set: {}, create: true, from: '', text: '{}' }))
      await users.enter(user, handle)
    }
    const version = await this.#attempt(() => store.write(handle, {
      ...sealed,
      set: this.#sealAll(change.set, handle),
      create: before === undefined && user === undefined,
      from: before?.version ?? '',
      text: joinFields(this.#sealAll(after, handle)),
      ...hasMoved && { owner: { user, device: this.#deviceOf(session, handle) } }
    }))
    if (version === undefined) this.abandon(session)
    else if (before === undefined) this.#options.counts.created()
    state.known = { changeTo: next => diff(after, next), version: version ?? '', user }
    for (const go of state.onStored ?? []) go()
    delete state.onStored
    if (hasMoved && before?.user !== undefined) await users.leave(before.user, handle)
    if (hasMoved && user !== undefined && version === undefined) await users.leave(user, handle)
    return true
  }

  /** What is to be saved. */
  #changeOf (session: Session): { after: SessionSnapshot, change: FieldChanges } {
    const after = this.#snapshotOf(session)
    return { after, change: stateOf(session).known?.changeTo(after) ?? diff({}, after) }
  }

  #snapshotOf (session: Session): SessionSnapshot {
    const snapshot = takeSnapshot(session)
    const cookie = cookieToStore(session.cookie, this.#options.cookie)
    if (cookie === undefined) delete snapshot['cookie']
    else snapshot['cookie'] = JSON.stringify(cookie)
    return snapshot
  }

  #sealAll (fields: SessionSnapshot, handle: string): SessionSnapshot {
    const { cipher } = this.#options
    if (cipher === undefined) return fields
    return Object.fromEntries(Object.entries(fields).map(([name, json]) => [name, JSON.stringify(cipher.seal(json, handle, name))]))
  }

  #deviceOf (session: Session, handle: string): string {
    const { cipher } = this.#options
    const { request } = stateOf(session)
    const device = JSON.stringify(request === undefined ? [] : [request.ip, (request.headers['user-agent'] ?? '').slice(0, 256)])
    return cipher === undefined ? device : cipher.seal(device, handle, 'device')
  }

  async #attempt<T> (operation: () => Promise<T>): Promise<T> {
    try {
      return await this.#options.run(operation)
    } catch {
      throw new StoreUnavailableError()
    }
  }
}

/** As an assignment of another reserved name, one of `isModified` has no effect. */
function ignore (): void {}

/**
 * Before anything is written.
 *
 * @param isRequests - whether it is a request's; what a program gives the store itself may be a plain object
 */
function checkCookieOf ({ cookie }: Session, isRequests: boolean): void {
  if (isRequests || (typeof cookie !== 'object' && cookie !== undefined)) checkIsCookie(cookie)
  if (cookie !== undefined && cookie !== null) checkAttributes(cookie)
}
