import { getHashes } from 'node:crypto'
import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import { InWords, invalidOptionError } from '../shared/plugin/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/redis/guard.js'
import { MAX_ENTRIES, readOptions } from '../shared/plugin/option-reader.js'
import { checkBrowserRules, checkCookieOptions, isCookieName } from './cookie/cookie-rules.js'
import { CachingSigner } from './cookie/signer.js'
import type { SessionTimeouts } from './store/store.js'
import type { UserLimit } from './store/user-index.js'
import { checkedGenerator, checkedSigner } from './cookie/signer.js'

/** 32 bytes: a Buffer, or as text in hexadecimal or base64. */
export type EncryptionKey = Uint8Array | string

/** Options of the `session` plugin: its own, and all of `@fastify/session` but the store. */
export interface SessionPluginOptions extends Omit<FastifySessionOptions, 'store' | 'secret'> {
  /** Signs the cookie: 32 characters or more, or an array, of which the first signs and all are accepted (rotation). */
  secret: FastifySessionOptions['secret'] | undefined
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long a request may wait for the store. @default 150 ms */
  timeout?: Duration | undefined
  /** After how long without a request a session ends. @default '1 day' */
  idleTimeout?: Duration | undefined
  /** How long after its creation, which a login is, a session ends in any case. @default '30 days' */
  absoluteTimeout?: Duration | undefined
  /** The property of the session that holds the user's id, or a function (also async) that returns it; undefined for nobody. @default 'userId' */
  userId?: string | ((session: Session) => unknown) | undefined
  /** How many sessions a user may have; 0: any number. @default 0 */
  maxPerUser?: number | undefined
  /** When there are so many: the oldest ends, or the new one is refused with `FST_REDIS_SUITE_SESSION_TOO_MANY`. @default 'drop-oldest' */
  onMaxPerUser?: 'drop-oldest' | 'refuse' | undefined
  /** Seals what is stored (AES-256-GCM). Of several keys the first one seals, all open (rotation). @default not sealed */
  encrypt?: EncryptionKey | readonly EncryptionKey[] | undefined
  /**
   * While the store cannot be asked: answer 503, or go on with an empty session that is not saved and whose cookie is not sent.
   *
   * @default 'closed'
   */
  onStoreError?: 'closed' | 'anonymous' | undefined
  /** Whether requests have `login` and `logout`, where no other plugin has taken the names; `fastify.sessions` has both in any case. @default true */
  decorators?: boolean | undefined
  /** How many sessions the memory store keeps. @default 10000 */
  maxSessions?: number | undefined
  /** The clock for time-outs, deadlines and counts: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedSessionOptions extends SessionTimeouts, UserLimit {
  /** For `@fastify/session`. */
  session: FastifySessionOptions
  cookieName: string
  cookiePrefix: string
  timeout: number
  userId: (session: Session) => unknown
  /** In which property the user is kept; undefined where only `userId` knows. */
  userProperty: string | undefined
  keys: readonly Buffer[]
  allowsAnonymous: boolean
  decorators: boolean
  maxSessions: number
  clock: Clock
}

const OWN = ['redis', 'timeout', 'idleTimeout', 'absoluteTimeout', 'userId', 'maxPerUser', 'onMaxPerUser', 'encrypt', 'onStoreError', 'decorators', 'maxSessions', 'clock']
const FASTIFY_SESSION = ['secret', 'algorithm', 'cookieName', 'cookiePrefix', 'cookie', 'saveUninitialized', 'rolling', 'idGenerator']
const KEY_BYTES = 32

/** @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION` */
export function resolveSessionOptions (given: SessionPluginOptions): ResolvedSessionOptions {
  const read = readOptions('session', given)
  read.onlyKnown([...FASTIFY_SESSION, ...OWN])
  const { userId = 'userId', encrypt, cookie, cookiePrefix = '' } = given
  if (typeof userId !== 'function' && (typeof userId !== 'string' || userId === '')) read.fail('userId', "a property's name, or a function of the session")
  const cookieName = read.string('cookieName', 'sid')
  if (!isCookieName(cookieName)) read.fail('cookieName', 'a name of printable ASCII characters without "=", ";" and blanks')
  // Half of a surrogate pair cannot be encoded.
  if (typeof cookiePrefix !== 'string' || /\p{Surrogate}/u.test(cookiePrefix)) read.fail('cookiePrefix', 'a string of whole characters')
  checkCookieOptions(cookie)
  checkBrowserRules(cookieName, cookie ?? {})
  if (given.idGenerator !== undefined && typeof given.idGenerator !== 'function') read.fail('idGenerator', 'a function')
  read.boolean('saveUninitialized', false)
  read.boolean('rolling', false)
  if (given.algorithm !== undefined && !getHashes().includes(given.algorithm)) read.fail('algorithm', 'a hash that crypto.getHashes() lists')
  const rest = Object.fromEntries(Object.entries(given).filter(([name, value]) => FASTIFY_SESSION.includes(name) && value !== undefined))
  return {
    session: {
      // The store renews the idle time-out as it reads, so an unchanged session need not be written.
      rolling: false,
      saveUninitialized: false,
      ...rest,
      secret: signerOf(checkSecret(given.secret), given.algorithm),
      ...given.idGenerator !== undefined && { idGenerator: checkedGenerator(given.idGenerator) },
      cookieName,
      cookie: { path: '/', httpOnly: true, sameSite: 'lax', secure: 'auto', ...cookie }
    },
    cookieName,
    cookiePrefix,
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    idleTimeout: read.duration('idleTimeout', '1 day', { min: 1 }),
    absoluteTimeout: read.duration('absoluteTimeout', '30 days', { min: 1 }),
    userId: typeof userId === 'function' ? userId : session => Reflect.get(session, userId),
    userProperty: typeof userId === 'function' ? undefined : userId,
    maxPerUser: read.integer('maxPerUser', 0, { max: 1000 }),
    dropsOldest: read.oneOf('onMaxPerUser', 'drop-oldest', ['drop-oldest', 'refuse']) === 'drop-oldest',
    keys: encrypt === undefined ? [] : checkKeys(encrypt),
    allowsAnonymous: read.oneOf('onStoreError', 'closed', ['closed', 'anonymous']) === 'anonymous',
    decorators: read.boolean('decorators', true),
    maxSessions: read.integer('maxSessions', 10_000, { min: 1, max: MAX_ENTRIES }),
    clock: read.clock()
  }
}

/** What was given is never repeated. */
function checkSecret (secret: SessionPluginOptions['secret']): FastifySessionOptions['secret'] {
  const isLongEnough = (text: unknown) => typeof text === 'string' && text.length >= 32
  if (isLongEnough(secret) || (Array.isArray(secret) && secret.length > 0 && secret.every(isLongEnough)) || isSigner(secret)) return secret!
  throw invalidOptionError('session', 'secret', secret === undefined ? undefined : new InWords('too short, or of another kind'), '32 characters or more, an array of such, or a signer')
}

function signerOf (secret: FastifySessionOptions['secret'], algorithm: string | undefined): FastifySessionOptions['secret'] {
  return typeof secret === 'string' || Array.isArray(secret) ? new CachingSigner(secret, algorithm) : checkedSigner(secret)
}

function isSigner (value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && 'sign' in value && 'unsign' in value
}

/** What was given is never repeated. */
function checkKeys (encrypt: unknown): Buffer[] {
  const keys = (Array.isArray(encrypt) ? encrypt : [encrypt]).map(bytesOf)
  if (keys.length > 0 && keys.every(key => key?.length === KEY_BYTES)) return keys as Buffer[]
  throw invalidOptionError('session', 'encrypt', new InWords('no key of 32 bytes'), 'a Buffer of 32 bytes, the same in hexadecimal or base64, or an array of such')
}

function bytesOf (key: unknown): Buffer | undefined {
  if (key instanceof Uint8Array) return Buffer.from(key)
  if (typeof key !== 'string') return undefined
  return /^[\da-f]{64}$/i.test(key) ? Buffer.from(key, 'hex') : /^[\w+/-]{43}=?$/.test(key) ? Buffer.from(key, 'base64') : undefined
}
