import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'
import type { RedisClient } from '../shared/client.js'
import type { Duration } from '../shared/duration.js'
import { invalidOptionError } from '../shared/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/guard.js'
import { readOptions } from '../shared/options.js'
import type { SessionTimeouts } from './store.js'

/** Options of the `session` plugin: its own, and all of `@fastify/session` but the store. */
export interface SessionPluginOptions extends Omit<FastifySessionOptions, 'store' | 'secret'> {
  /** Signs the cookie: 32 characters or more, or an array, of which the first signs and all are accepted (rotation). */
  secret: FastifySessionOptions['secret'] | undefined
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long a request may wait for the store. @default 150 ms */
  timeout?: Duration
  /** After how long without a request a session ends. @default '1 day' */
  idleTimeout?: Duration
  /** How long after its creation a session ends in any case. @default '30 days' */
  absoluteTimeout?: Duration
  /** Whose session it is, for `fastify.sessions`. @default session.userId */
  userId?: (session: Session) => unknown
  /** How many sessions the memory store keeps. @default 10000 */
  maxSessions?: number
}

export interface ResolvedSessionOptions extends SessionTimeouts {
  /** For `@fastify/session`. */
  session: FastifySessionOptions
  cookieName: string
  timeout: number
  userId: (session: Session) => unknown
  maxSessions: number
}

const OPTIONS = ['secret', 'redis', 'timeout', 'idleTimeout', 'absoluteTimeout', 'userId', 'maxSessions',
  'algorithm', 'cookieName', 'cookiePrefix', 'cookie', 'saveUninitialized', 'rolling', 'idGenerator']

export function resolveSessionOptions (given: SessionPluginOptions): ResolvedSessionOptions {
  const read = readOptions('session', given)
  read.onlyKnown(OPTIONS)
  const { redis, timeout, idleTimeout, absoluteTimeout, userId = defaultUserId, maxSessions, cookie, ...rest } = given
  if (typeof userId !== 'function') read.fail('userId', 'a function of the session')
  const cookieName = read.string('cookieName', 'sid')
  return {
    session: {
      // The store renews the idle time-out as it reads, so an unchanged session need not be written.
      rolling: false,
      saveUninitialized: false,
      ...rest,
      secret: checkSecret(given.secret),
      cookieName,
      cookie: { path: '/', httpOnly: true, sameSite: 'lax', secure: 'auto', ...cookie }
    },
    cookieName,
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    idleTimeout: read.duration('idleTimeout', '1 day', { min: 1 }),
    absoluteTimeout: read.duration('absoluteTimeout', '30 days', { min: 1 }),
    userId,
    maxSessions: read.integer('maxSessions', 10_000, { min: 1 })
  }
}

function defaultUserId (session: Session): unknown {
  return Reflect.get(session, 'userId')
}

/** What was given is never repeated. */
function checkSecret (secret: SessionPluginOptions['secret']): FastifySessionOptions['secret'] {
  const isLongEnough = (text: unknown) => typeof text === 'string' && text.length >= 32
  if (isLongEnough(secret) || (Array.isArray(secret) && secret.length > 0 && secret.every(isLongEnough)) || isSigner(secret)) return secret!
  throw invalidOptionError('session', 'secret', secret === undefined ? undefined : 'too short, or none', '32 characters or more, an array of such, or a signer')
}

function isSigner (value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && 'sign' in value && 'unsign' in value
}
