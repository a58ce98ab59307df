import type { SessionStore as FastifySessionStore } from '@fastify/session'
import type { FastifyBaseLogger, FastifyRequest, Session } from 'fastify'
import { hashId } from '../shared/keys.js'
import { storeUnavailable } from './errors.js'
import { diff, parseFields, takeSnapshot, type Snapshot } from './fields.js'
import type { SessionStore } from './store.js'

/** Our store behind the interface that `@fastify/session` wants. */
export interface SessionAdapter extends FastifySessionStore {
  /** Ties what was read to the session that was made of it. To be called in the hook right after `@fastify/session`'s. */
  bind (request: FastifyRequest): void
  /** Whether the session came out of the store. */
  isStored (session: Session): boolean
}

type Run = <T>(operation: () => Promise<T>) => Promise<T>

/** @param run - calls the store by the policy on failure */
export function createAdapter (store: SessionStore, run: Run, userId: (session: Session) => unknown, log: FastifyBaseLogger): SessionAdapter {
  const snapshots = new WeakMap<object, Snapshot>()
  // `@fastify/session` makes its object of what `get` hands to its callback, and goes on to the next hook within it.
  let reading: { sessionId: string, snapshot: Snapshot } | undefined

  async function read (sessionId: string): Promise<{ data: Session, snapshot: Snapshot } | undefined> {
    const stored = await run(() => store.read(hashId(sessionId)))
    if (stored === undefined) return undefined
    const data = parseFields(stored.fields)
    if (data === undefined) {
      log.warn('session: a stored session cannot be read and counts as none')
      return undefined
    }
    return { data: data as unknown as Session, snapshot: stored.fields }
  }

  async function save (sessionId: string, session: Session): Promise<void> {
    const before = snapshots.get(session)
    const after = takeSnapshot(session)
    const change = diff(before ?? {}, after)
    const user = userId(session)
    if (before === undefined || Object.keys(change.set).length > 0 || change.delete.length > 0) {
      await run(() => store.write(hashId(sessionId), { ...change, create: before === undefined, user: user === undefined || user === null ? undefined : String(user) }))
    }
    snapshots.set(session, after)
  }

  return {
    get (sessionId, callback) {
      read(sessionId).then(found => {
        reading = found && { sessionId, snapshot: found.snapshot }
        try {
          callback(null, found?.data ?? null)
        } finally {
          reading = undefined
        }
      }, () => callback(storeUnavailable()))
    },
    set (sessionId, session, callback) {
      save(sessionId, session).then(() => callback(), () => callback(storeUnavailable()))
    },
    destroy (sessionId, callback) {
      run(() => store.destroy(hashId(sessionId))).then(() => callback(), () => callback(storeUnavailable()))
    },
    bind (request) {
      if (reading !== undefined && reading.sessionId === request.session?.sessionId) snapshots.set(request.session, reading.snapshot)
    },
    isStored: session => snapshots.has(session)
  }
}
