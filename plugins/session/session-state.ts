import type { FastifyRequest } from 'fastify'
import type { CookieSnapshot } from './cookie/cookie.js'
import type { FieldChanges, SessionSnapshot } from './session-diff.js'

/** What was read of a session, or saved. */
export interface KnownSession {
  /** What makes that of it which it is now. */
  changeTo: (after: SessionSnapshot) => FieldChanges
  /** Its contents when it was read; undefined where it was not. */
  contents?: string | undefined
  /** Its cookie when it was read. */
  cookie?: CookieSnapshot
  /** Whether it was not there any more. */
  isGone?: boolean
  version: string
  /** Digest of whose it is. */
  user: string | undefined
}

/** What is known of a session's object. */
export interface SessionState {
  known?: KnownSession
  /** From where it is used, for its user's list. */
  request?: FastifyRequest
  /** Called when it is stored for the first time. */
  onStored?: Array<() => void>
  /** The last save, which the next one waits for. */
  saved?: Promise<boolean>
}

const STATE = Symbol('session.state')

/** @returns undefined for a session of another plugin, or of no request */
export function requestOf (session: object): FastifyRequest | undefined {
  return (session as { [STATE]?: SessionState })[STATE]?.request
}

/** In the object itself, hidden: as many entries of a `WeakMap` as there are requests keep the garbage collector busy. */
export function stateOf (session: object): SessionState {
  const holder = session as { [STATE]?: SessionState }
  const present = holder[STATE]
  if (present !== undefined) return present
  const state: SessionState = {}
  Object.defineProperty(session, STATE, { value: state })
  return state
}
