import type { AnyRequest } from '../shared/http/any-request.js'
import type { Duration } from '../shared/plugin/duration.js'
import { InWords, invalidArgumentError } from '../shared/plugin/errors.js'
import { DIGEST_LENGTH, digestOf } from './digest.js'
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

/** A session without its id, which would let anybody use it. */
export interface SessionInfo {
  handle: string
  /** Milliseconds since the epoch. */
  createdAt: number
  lastSeenAt: number
  /** `request.ip` and the header `User-Agent` of the login. */
  address: string | undefined
  userAgent: string | undefined
  /** Whether the caller named this session as `current`. */
  current: boolean
}

/** `fastify.sessions`: the sessions of users. A handle names a session, but cannot be used as its id. */
export interface Sessions extends Logins {
  /**
   * Returns the live sessions of a user, the last used first.
   *
   * @param options.current - the handle of the caller's own session
   */
  list (userId: UserId, options?: { current?: string | undefined }): Promise<SessionInfo[]>
  count (userId: UserId): Promise<number>
  /** Destroys a session, for requests in progress as well. @returns whether there was one */
  destroy (handle: string): Promise<boolean>
  /**
   * Destroys all sessions that a user has now.
   *
   * @param options.except - the handle of a session that stays
   * @returns the number of destroyed sessions
   */
  destroyAll (userId: UserId, options?: { except?: string | undefined }): Promise<number>
  /**
   * Calls a function once when the request's session ends: by its time-outs, or on any instance by logout, `destroy`,
   * `destroyAll` or a login that gives it a new id. For websockets and other long responses; `fastify.events.sse`
   * watches by itself.
   *
   * @param onEnd - may be async. Its errors are logged
   * @param options.interval - how often the session is also looked up, in case a message is lost. @default '15s'
   * @returns a function that ends the watch. Without a session nothing is watched
   */
  watch (request: AnyRequest, onEnd: () => unknown, options?: { interval?: Duration | undefined }): () => void
  /** Returns the handle of a session id, such as `request.session.sessionId`. */
  handleOf (sessionId: string): string
  /** Returns this process's counts. */
  stats (): SessionStats
}

const HANDLE = new RegExp(`^[\\w-]{${DIGEST_LENGTH}}$`)

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
      let isStopped = false
      const { session } = request
      if (session?.sessionId && !isAnonymous(request)) {
        onceStored(session, handle => { if (!isStopped) stop = watches.add(handle, interval, onEnd) })
      }
      return () => {
        isStopped = true
        stop?.()
      }
    },
    handleOf: digestOf,
    stats: () => stats.stats
  }
}

/** Returns the digest of a user's id. @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION` */
export function userOf (userId: unknown): string {
  if (isUserId(userId)) return digestOf(String(userId))
  throw invalidArgumentError('session', 'userId', userId, USER_ID_ALLOWED)
}

function checkHandle (handle: unknown, name: string): string {
  if (typeof handle === 'string' && HANDLE.test(handle)) return handle
  // The value may be the session's id, which must not be logged.
  throw invalidArgumentError(
    'session', name, new InWords(`a ${typeof handle} that is no handle`),
    'a handle, as fastify.sessions.list and handleOf give it'
  )
}

function parseDevice (text: string | undefined): Array<string | undefined> {
  try {
    const device: unknown = JSON.parse(text ?? '[]')
    return Array.isArray(device) ? device.map(part => typeof part === 'string' && part !== '' ? part : undefined) : []
  } catch {
    return []
  }
}
