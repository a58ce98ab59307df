import type { AnyRequest } from '../shared/http/any-request.js'
import type { Duration } from '../shared/plugin/duration.js'
import { InWords, invalidArgumentError } from '../shared/plugin/errors.js'
import { hashId } from '../shared/plugin/keys.js'
import { handled } from '../shared/plugin/maybe-promise.js'
import { duration, unchecked } from '../shared/plugin/option-kinds.js'
import { resolveOptions } from '../shared/plugin/option-table.js'
import type { Logins } from './login.js'
import type { SessionCodec } from './session-codec.js'
import { isAnonymous, onceStored } from './session-state.js'
import type { SessionStatsCounter, SessionStats } from './stats.js'
import type { StoredInfo } from './store/store.js'
import { isUserId, USER_ID_ALLOWED, type UserId } from './user-id.js'
import type { UserIndex } from './store/user-index.js'
import type { Watches } from './watches.js'

/** What others may know of a session: never its id, which is as good as a password. */
export interface SessionInfo {
  handle: string
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
  /** Where it became this user's: `request.ip` and the header `User-Agent` then. */
  address: string | undefined
  userAgent: string | undefined
  /** Whether it is the one that was named as `current`. */
  current: boolean
}

/** `fastify.sessions`: whose sessions are where. A handle names a session without being worth anything to a thief. */
export interface Sessions extends Logins {
  /**
   * The live sessions of a user, the one seen last first.
   *
   * @param options.current - the handle of the one that asks
   */
  list (userId: UserId, options?: { current?: string | undefined }): Promise<SessionInfo[]>
  count (userId: UserId): Promise<number>
  /** Ends a session. Whoever still holds it cannot bring it back. @returns whether there was one */
  destroy (handle: string): Promise<boolean>
  /**
   * Ends all sessions that a user has now, page by page.
   *
   * @param options.except - the handle of one to keep
   * @returns how many were ended
   */
  destroyAll (userId: UserId, options?: { except?: string | undefined }): Promise<number>
  /**
   * Calls a function once when the request's session ends: by logout, `destroy`, `destroyAll`, a login that gives it a new id, on any
   * instance, or by its time-outs. For websockets and other long responses; `fastify.events.sse` does it by itself.
   *
   * @param onEnd - may be async; what it throws is logged
   * @param options.interval - how often the session is looked up beside that, in case no message arrives
   * @returns a function that ends the watch. Without a session nothing is watched
   */
  watch (request: AnyRequest, onEnd: () => unknown, options?: { interval?: Duration | undefined }): () => void
  /** The handle of a session, of `request.session.sessionId` for example. */
  handleOf (sessionId: string): string
  /** What this process counted. */
  stats (): SessionStats
}

const HANDLE = /^[\w-]{43}$/

interface SessionsParts {
  users: UserIndex
  codec: SessionCodec
  stats: SessionStatsCounter
  watches: Watches
  logins: Logins
}

const LIST_OPTIONS = { current: unchecked<string>('string') }
const DESTROY_OPTIONS = { except: unchecked<string>('string') }
const WATCH_OPTIONS = { interval: duration('15s', { min: 10 }) }

export function createSessions ({ users, codec, stats, watches, logins }: SessionsParts): Sessions {
  function describe ({ handle, createdAt, lastSeenAt, device }: StoredInfo, current: string | undefined): SessionInfo {
    const [address, userAgent] = parseDevice(codec.openDevice(device, handle))
    return { handle, createdAt, lastSeenAt, address, userAgent, current: handle === current }
  }

  const list: Sessions['list'] = async (userId, options = {}) => {
    const { current } = resolveOptions('session', LIST_OPTIONS, options)
    const sessions = await users.list(userOf(userId))
    return sessions.map(info => describe(info, current)).sort((a, b) => b.lastSeenAt - a.lastSeenAt)
  }
  const destroy: Sessions['destroy'] = async handle => await users.destroy(checkHandle(handle, 'handle'))
  const destroyAll: Sessions['destroyAll'] = async (userId, options = {}) => {
    const { except } = resolveOptions('session', DESTROY_OPTIONS, options)
    return await users.destroyAll(userOf(userId), except === undefined ? undefined : checkHandle(except, 'except'))
  }

  return {
    ...logins,
    list,
    count: async userId => (await users.list(userOf(userId))).length,
    destroy: handle => handled(destroy(handle)),
    destroyAll: (userId, options) => handled(destroyAll(userId, options)),
    watch (request, onEnd, options = {}) {
      if (typeof onEnd !== 'function') throw invalidArgumentError('session', 'onEnd', onEnd, 'a function')
      const interval = resolveOptions('session', WATCH_OPTIONS, options).interval
      let stop: (() => void) | undefined
      let isOver = false
      const { session } = request
      if (session?.sessionId && !isAnonymous(request)) {
        onceStored(session, handle => { if (!isOver) stop = watches.add(handle, interval, onEnd) })
      }
      return () => {
        isOver = true
        stop?.()
      }
    },
    handleOf: hashId,
    stats: () => stats.stats
  }
}

/** @returns the digest by which the user is known */
export function userOf (userId: unknown): string {
  if (isUserId(userId)) return hashId(String(userId))
  throw invalidArgumentError('session', 'userId', userId, USER_ID_ALLOWED)
}

function checkHandle (handle: unknown, name: string): string {
  if (typeof handle === 'string' && HANDLE.test(handle)) return handle
  // It may be the id itself, which nobody is to read in a log.
  throw invalidArgumentError('session', name, new InWords(`a ${typeof handle} that is no handle`), 'a handle, as fastify.sessions.list and handleOf give it')
}

function parseDevice (text: string | undefined): Array<string | undefined> {
  try {
    const device: unknown = JSON.parse(text ?? '[]')
    return Array.isArray(device) ? device.map(part => typeof part === 'string' && part !== '' ? part : undefined) : []
  } catch {
    return []
  }
}
