import { hashId } from '../shared/keys.js'
import type { SessionInfo, SessionStore } from './store.js'

/** `fastify.sessions`: whose sessions are where. A handle names a session without being worth anything to a thief. */
export interface Sessions {
  /** The live sessions of a user, the one seen last first. */
  list (userId: string | number): Promise<SessionInfo[]>
  count (userId: string | number): Promise<number>
  /** Ends a session. Whoever still holds it cannot bring it back. */
  destroy (handle: string): Promise<void>
  /**
   * Ends all sessions of a user.
   *
   * @param options.except - the handle of one to keep
   * @returns how many were ended
   */
  destroyAll (userId: string | number, options?: { except?: string }): Promise<number>
  /** The handle of a session, of `request.session.sessionId` for example. */
  handleOf (sessionId: string): string
}

type Run = <T>(operation: () => Promise<T>) => Promise<T>

export function createSessions (store: SessionStore, run: Run): Sessions {
  const list = async (userId: string | number) => {
    const sessions = await run(() => store.list(String(userId)))
    return sessions.sort((a, b) => b.lastSeenAt - a.lastSeenAt)
  }
  return {
    list,
    count: async userId => (await list(userId)).length,
    destroy: handle => run(() => store.destroy(handle)),
    async destroyAll (userId, { except } = {}) {
      const doomed = (await list(userId)).filter(({ handle }) => handle !== except)
      await Promise.all(doomed.map(({ handle }) => run(() => store.destroy(handle))))
      return doomed.length
    },
    handleOf: hashId
  }
}
