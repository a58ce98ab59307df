import type { FastifyReply, FastifyRequest, Session } from 'fastify'
import { digestOf } from './digest.js'
import type { CookieSnapshot } from './cookie/cookie.js'
import type { FieldChanges, SessionSnapshot } from './session-diff.js'

/**
 * The stored session, as this process read or saved it last.
 *
 * V8 would allocate a literal of such a long life in the old generation, where it keeps the request and its response
 * alive. That took a fifth of a read's CPU.
 */
export class KnownSession {
  /** Returns the changes that turn it into `after`. */
  readonly changesTo: (after: SessionSnapshot) => FieldChanges
  readonly version: string
  /** The digest of its user's id. */
  readonly user: string | undefined
  /** Its contents when it was read; undefined after a save. */
  readonly contents: string | undefined
  /** Its cookie when it was read. */
  cookie: CookieSnapshot | undefined
  /** Whether the store had lost it when it was read. */
  isGone: boolean

  constructor (
    changesTo: KnownSession['changesTo'], version: string, user: string | undefined, contents?: string
  ) {
    this.changesTo = changesTo
    this.version = version
    this.user = user
    this.contents = contents
    this.cookie = undefined
    this.isGone = false
  }
}

/** The state of a session object. */
interface SessionState {
  /**
   * - undefined: onSend saves what has changed
   * - `unsaved`: the last save failed, as the store was unavailable
   * - `abandoned`: its save or its login failed, or it was destroyed. onSend neither saves it nor sends its cookie
   */
  phase?: 'unsaved' | 'abandoned' | undefined
  /** Undefined until the session is stored. */
  known?: KnownSession
  /** The request whose session it is. */
  request?: FastifyRequest
  /** Called when the session is stored for the first time. */
  onStored?: Array<() => void>
  /** The last save, which the next one waits for. */
  saved?: Promise<boolean>
}

const STATE = Symbol('session.state')
type WithState = object & { [STATE]?: SessionState }

/**
 * Returns the state of a session, in the object itself: entries of a `WeakMap` for each request keep the garbage
 * collector busy.
 */
export function stateOf (session: object): SessionState {
  const present = (session as WithState)[STATE]
  if (present !== undefined) return present
  // V8 would allocate a literal with properties in the old generation, from where it keeps the request alive.
  const state: SessionState = {}
  Object.defineProperty(session, STATE, { value: state })
  return state
}

/** Returns the request of a session; undefined for the session of another plugin. */
export function requestOf (session: object): FastifyRequest | undefined {
  return (session as WithState)[STATE]?.request
}

/** Whether this request created the session and has not saved it: no client knows its id. */
export function isNew (session: object): boolean {
  const { known, saved } = stateOf(session)
  return known === undefined && saved === undefined
}

/** Calls a function with the session's handle as soon as it is stored, which may be at once. */
export function onceStored (session: Session & { sessionId: string }, call: (handle: string) => void): void {
  const state = stateOf(session)
  const callWithHandle = () => call(digestOf(session.sessionId))
  if (state.known === undefined) (state.onStored ??= []).push(callWithHandle)
  else callWithHandle()
}

/** Excludes a session from the save and `Set-Cookie` of onSend. */
export function abandon (session: object): void {
  stateOf(session).phase = 'abandoned'
}

/** Why a request has no session, or a temporary one in place of its own. */
export interface SessionAbsence {
  /** `anonymous`: the session could not be read, so its user is unknown. `ended`: the request has destroyed it. */
  kind: 'anonymous' | 'ended'
  /** The cookie of the session that has ended, if it was read. */
  cookie?: CookieSnapshot | undefined
  /**
   * The destruction of a session that was set to null, which the response waits for. It rejects while the store is
   * unavailable.
   */
  destroyed?: Promise<unknown> | undefined
}

/** The properties that this plugin adds to requests. */
export const SESSION = Symbol('session')
/** The reply, as long as an error of an app's callback can still become the response. */
export const REPLY = Symbol('session.reply')

export type RequestWithState = FastifyRequest & {
  [SESSION]?: FastifyRequest['session'] | null
  [REPLY]?: FastifyReply | null
}

/** The few requests without their session. One more property of each request would cost all of them 10 % of CPU. */
const absences = new WeakMap<object, SessionAbsence>()

export function absenceOf (request: object): SessionAbsence | undefined {
  return absences.get(request)
}

/** @param absence - undefined if the request has its session again */
export function setAbsence (request: object, absence: SessionAbsence | undefined): void {
  if (absence === undefined) absences.delete(request)
  else absences.set(request, absence)
}

/** Whether the request's session could not be read. */
export function isAnonymous (request: object): boolean {
  return absenceOf(request)?.kind === 'anonymous'
}
