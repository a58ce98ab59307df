import type { SessionStore as FastifySessionStore } from '@fastify/session'
import { LRUCache } from 'lru-cache'
import type { FastifyRequest, Session, FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { describe, reasonOf } from '../shared/plugin/errors.js'
import { digestOf } from './digest.js'
import { handled } from '../shared/plugin/maybe-promise.js'
import { traced } from '../shared/plugin/tracing.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { protectCallbacks } from './callbacks.js'
import { takeCookieSnapshot } from './cookie/cookie.js'
import { InvalidSessionError, storeUnavailable, StoreUnavailableError } from './errors.js'
import { saveSession, type SaveOptions } from './save-session.js'
import { diff } from './session-diff.js'
import {
  isAnonymous, isNew, KnownSession, setAbsence, stateOf, type RequestWithState, type SessionAbsence
} from './session-state.js'
import type { StoredSession } from './store/store.js'

interface SuiteSessionStoreOptions extends SaveOptions {
  /** How often a session in use is renewed. */
  renewal: Milliseconds
  /** Whether a request continues without a session if that cannot be read. */
  onStoreError: 'closed' | 'anonymous'
  clock: Clock
  log: FastifyBaseLogger
}

/** The callback that the store is calling. `@fastify/session` sets the request's session within it. */
type RunningCallback =
  | { kind: 'read', sessionId: string, known: KnownSession, data: Session | undefined }
  | { kind: 'unreadable', sessionId: string }
  | { kind: 'destroyed' }
  | { kind: 'refused' }

type OnError = (error: unknown) => void
type ReadCallback = (error: unknown, session?: Session | null) => void

const MAX_STAND_INS = 10_000

/** The store that `@fastify/session` calls. */
export class SuiteSessionStore implements FastifySessionStore {
  readonly #options: SuiteSessionStoreOptions
  /** Ids of the sessions that stand in for those that could not be read. */
  readonly #standIns = new LRUCache<string, true>({ max: MAX_STAND_INS })
  #running: RunningCallback | undefined
  /**
   * While `@fastify/session` begins a request: sends an error that is thrown after the store's reply as the response.
   */
  failRequest: OnError | undefined

  constructor (options: SuiteSessionStoreOptions) {
    this.#options = options
  }

  get (sessionId: string, callback: ReadCallback): void {
    const { store, onStoreError } = this.#options
    const handle = digestOf(sessionId)
    const fail = this.failRequest
    traced('session read', () => store.read(handle)).then(
      stored => this.#handOver(sessionId, handle, stored, callback, fail),
      (error: unknown) => {
        if (onStoreError === 'anonymous') this.#call({ kind: 'unreadable', sessionId }, callback, null, null, fail)
        else this.#refuse(callback, storeUnavailable(error))
      })
  }

  /** @param callback - its second argument is whether there was something to save */
  set (sessionId: string, session: Session, callback: (error?: unknown, isSaved?: boolean) => void): void {
    if (this.#running?.kind === 'refused' || this.#standIns.has(sessionId)) return this.#refuse(callback)
    const state = stateOf(session)
    const save = () => traced('session write', () => saveSession(sessionId, session, this.#options))
    // One after the other: each save begins with what the one before it has saved.
    const saved = state.saved === undefined ? save() : state.saved.catch(() => {}).then(save)
    state.saved = saved
    saved.then(isSaved => {
      if (state.phase === 'unsaved') state.phase = undefined
      this.#call(undefined, callback, undefined, isSaved)
    }, error => {
      if (error instanceof StoreUnavailableError && state.phase === undefined) state.phase = 'unsaved'
      this.#refuse(callback, error)
    })
  }

  destroy (sessionId: string, callback: (error?: unknown) => void): void {
    if (this.#standIns.has(sessionId)) return this.#refuse(callback)
    this.#options.users.destroy(digestOf(sessionId)).then(
      () => this.#call({ kind: 'destroyed' }, callback, undefined),
      (error: unknown) => this.#refuse(callback, error))
  }

  /**
   * Ties what was read to the session that `@fastify/session` has made of it, in its hook, `reload` or
   * `decryptSession`.
   *
   * @param before - the request's session until now
   * @returns whether it becomes the request's session: an operation that failed changes nothing
   * @throws `FST_REDIS_SUITE_SESSION_INVALID_SESSION`
   */
  accept (
    request: RequestWithState, session: FastifyRequest['session'] | null |
      undefined, before?: FastifyRequest['session'] | null
  ): boolean {
    const running = this.#running
    if (running?.kind === 'refused' || (running?.kind === 'unreadable' && session?.sessionId === running.sessionId)) {
      return false
    }
    if (session === null || session === undefined) {
      if (before?.sessionId !== undefined) this.#end(request, before)
      return true
    }
    if (session.sessionId === undefined) {
      // `@fastify/session` begins each request with an empty object. An object of the app's would not be saved.
      if (this.failRequest === undefined) throw new InvalidSessionError(describe(session))
      return true
    }
    const state = stateOf(session)
    if (running?.kind === 'unreadable') {
      setAbsence(request, { kind: 'anonymous' })
      this.#standIns.set(session.sessionId, true)
    } else if (running?.kind === 'read' && running.sessionId === session.sessionId) {
      state.known = running.known
      running.known.cookie = takeCookieSnapshot(session.cookie)
      if (running.data !== undefined) this.#complete(session, running.data)
      running.data = undefined
    }
    state.request = request
    protectCallbacks(session)
    return true
  }

  #handOver (
    sessionId: string, handle: string, stored: StoredSession |
      undefined, callback: ReadCallback, fail: OnError | undefined
  ): void {
    const opened = stored && this.#options.codec.open(handle, stored)
    if (stored === undefined || opened === undefined) {
      // `reload` keeps the id of a session that is gone, under which nothing may be created.
      const known = new KnownSession(after => diff({}, after), '', undefined)
      known.isGone = true
      return this.#call({ kind: 'read', sessionId, known, data: undefined }, callback, null, null, fail)
    }
    this.#renew(handle, stored)
    const { data, known } = opened
    if (fail === undefined) return this.#call({ kind: 'read', sessionId, known, data: undefined }, callback, null, data)
    // `@fastify/session` makes a digest of all that it gets. That of the cookie alone takes less time, and `accept`
    // adds the rest.
    this.#call({ kind: 'read', sessionId, known, data }, callback, null, { cookie: data.cookie } as Session, fail)
  }

  /**
   * Renews the idle time-out in the background, unless that was done lately by whichever clock. The next request
   * repeats what failed.
   */
  #renew (handle: string, { lastSeenAt, user }: StoredSession): void {
    const { store, run, stats, clock, renewal } = this.#options
    if (Math.abs(clock.now() - lastSeenAt) <= renewal) return
    stats.renewed()
    run(() => store.renew(handle, user)).catch(() => {})
  }

  #complete (session: Session, data: Session): void {
    const { cookie } = session
    Object.assign(session, data)
    session.cookie = cookie
  }

  /** Ends a session that is set to null: by `destroy`, or by an app, for which it is destroyed here. */
  #end (request: RequestWithState, session: FastifyRequest['session']): void {
    if (isAnonymous(request)) {
      setAbsence(request, { kind: 'anonymous', destroyed: handled(Promise.reject(new StoreUnavailableError())) })
      return
    }
    const absence: SessionAbsence = { kind: 'ended', cookie: stateOf(session).known?.cookie }
    setAbsence(request, absence)
    if (this.#running?.kind === 'destroyed' || isNew(session)) return
    absence.destroyed = handled(this.#options.users.destroy(digestOf(session.sessionId)).catch((error: unknown) => {
      // As after a logout that failed, the client keeps its cookie.
      setAbsence(request, undefined)
      throw error
    }))
  }

  /**
   * Calls a callback with an error. Within it `regenerate` saves a new session and makes it the request's, and
   * `destroy` sets the request's session to null: both are ignored.
   */
  #refuse (callback: (error: unknown) => void, error: unknown = new StoreUnavailableError()): void {
    this.#call({ kind: 'refused' }, callback, error)
  }

  /** Calls a callback when the store has replied. Nothing else would catch what it throws. */
  #call<R> (
    running: RunningCallback |
      undefined, callback: (error: unknown, result?: R) => void, error: unknown, result?: R, fail?: OnError
  ): void {
    const outer = this.#running
    this.#running = running
    try {
      callback(error, result)
    } catch (thrown) {
      if (fail !== undefined) fail(thrown)
      else this.#options.log.error({ plugin: 'session', reason: reasonOf(thrown) }, 'session: a callback failed')
    } finally {
      this.#running = outer
    }
  }
}
