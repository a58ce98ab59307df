import { getHashes } from 'node:crypto'
import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import {
  boolean, callable, clock, duration, integer, MAX_ENTRIES, oneOf, option, redisClient, redisTimeout, required, string
} from '../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'
import { checkBrowserRules, checkCookieOptions, COOKIE_NAME } from './cookie/cookie-rules.js'
import { CachingSigner, checkedGenerator, checkedSigner } from './cookie/signer.js'

/** 32 bytes: a Buffer, or as text in hexadecimal or base64. */
export type EncryptionKey = Uint8Array | string

/** Options of the `session` plugin: its own, and those of `@fastify/session` except `store`. */
export interface SessionPluginOptions extends Omit<FastifySessionOptions, 'store' | 'secret'> {
  /**
   * Signs the cookie: 32 characters or more. With an array the first secret signs and all are accepted (rotation); a
   * cookie that was signed with an older one is signed again.
   */
  secret: FastifySessionOptions['secret'] | undefined
  /** How long a session lives after its last request. @default '1 day' */
  idleTimeout?: Duration | undefined
  /** How long a session lives after it was created, which `request.login` does, in any case. @default '30 days' */
  absoluteTimeout?: Duration | undefined
  /**
   * The property of the session that holds the user's id, or a function that returns it: a string, a finite number or a
   * bigint. `undefined`, `null`, `''`, `false` and `NaN` mean that there is no user. A number and the string of its
   * digits are one user.
   *
   * @default 'userId'
   */
  userId?: string | ((session: Session) => unknown) | undefined
  /** How many sessions a user may have; 0 means any number. @default 0 */
  maxPerUser?: number | undefined
  /**
   * The treatment of a login beyond `maxPerUser`: the user's oldest session ends, or the login is refused with
   * `FST_REDIS_SUITE_SESSION_TOO_MANY`.
   *
   * @default 'drop-oldest'
   */
  onMaxPerUser?: 'drop-oldest' | 'refuse' | undefined
  /**
   * Encrypts stored sessions (AES-256-GCM). With several keys the first one encrypts and all decrypt (rotation).
   *
   * @see [encryption](docs/plugins/session.md#encryption-at-rest)
   */
  encrypt?: EncryptionKey | readonly EncryptionKey[] | undefined
  /**
   * The behavior while the store is unavailable: `'closed'` answers with 503; `'anonymous'` continues with an empty
   * session that is not saved and whose cookie is not sent.
   *
   * @default 'closed'
   */
  onStoreError?: 'closed' | 'anonymous' | undefined
  /**
   * Whether requests have `login` and `logout`, unless another plugin has taken the names. `fastify.sessions` has both
   * in any case.
   *
   * @default true
   */
  decorators?: boolean | undefined
  /** The client of the store; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /**
   * How long a request waits for the store. While Redis is late but available, it waits longer.
   *
   * @default 150 ms; over HTTP 1000 ms
   * @see [an outage and a stall](docs/plugins/redis.md#how-an-outage-differs-from-a-stall)
   */
  timeout?: Duration | undefined
  /** How many sessions the memory store keeps. The least recently used one is evicted. @default 10_000 */
  maxSessions?: number | undefined
  /**
   * The clock for timeouts and deadlines. Redis expires keys by its own clock.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

const FASTIFY_SESSION_OPTIONS = {
  secret: required(option<string, unknown>({
    type: 'string, string[] or signer',
    allowed: '32 characters or more, as from `openssl rand -base64 32`, an array of such, or a signer',
    secret: 'shorter than 32 characters, or no string',
    parse: given => isSecret(given) ? given : undefined
  })),
  algorithm: option({
    type: 'string',
    allowed: 'a hash that crypto.getHashes() lists',
    parse: given => typeof given === 'string' && getHashes().includes(given) ? given : undefined
  }),
  cookieName: string('sid', 'a name of printable ASCII characters without "=", ";" and blanks', COOKIE_NAME),
  // Half of a surrogate pair cannot be encoded.
  cookiePrefix: string('', 'a string of whole characters', /^\P{Surrogate}*$/u),
  cookie: option({
    type: 'cookie options',
    allowed: 'an object',
    fallback: {},
    parse (given) {
      checkCookieOptions(given)
      return given as NonNullable<SessionPluginOptions['cookie']>
    }
  }),
  saveUninitialized: boolean(false),
  // The store extends the idle timeout as it reads, so an unchanged session need not be written.
  rolling: boolean(false),
  idGenerator: callable('`(request) => string`')
} satisfies OptionTable<Omit<FastifySessionOptions, 'store'>>

export const SESSION_OPTIONS = {
  ...FASTIFY_SESSION_OPTIONS,
  idleTimeout: duration('1 day', { min: 1 }),
  absoluteTimeout: duration('30 days', { min: 1 }),
  userId: option({
    type: "property's name, or `(session) => id`, sync or async",
    allowed: "a property's name, or a function of the session",
    fallback: 'userId',
    parse: given =>
      typeof given === 'function' || (typeof given === 'string' && given !== '')
        ? given as string | ((session: Session) => unknown)
        : undefined
  }),
  maxPerUser: integer(0, { max: 1000 }),
  onMaxPerUser: oneOf('drop-oldest', ['drop-oldest', 'refuse']),
  encrypt: option({
    type: 'key or keys of 32 bytes',
    allowed: 'a Buffer of 32 bytes, the same in hexadecimal or base64, or an array of such',
    secret: 'no key of 32 bytes',
    parse: parseKeys
  }),
  onStoreError: oneOf('closed', ['closed', 'anonymous']),
  decorators: boolean(true),
  redis: redisClient(),
  timeout: redisTimeout(),
  maxSessions: integer(10_000, { min: 1, max: MAX_ENTRIES }),
  clock: clock()
} satisfies OptionTable<SessionPluginOptions>

interface ResolvedSessionOptions
  extends Omit<Resolved<typeof SESSION_OPTIONS>, keyof typeof FASTIFY_SESSION_OPTIONS | 'userId'> {
  /** The options of `@fastify/session`. */
  session: FastifySessionOptions
  cookieName: string
  cookiePrefix: string
  userId: (session: Session) => unknown
  /** The property that holds the user's id; undefined if `userId` is a function. */
  userProperty: string | undefined
}

/** @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION` */
export function resolveSessionOptions (given: SessionPluginOptions): ResolvedSessionOptions {
  const {
    secret: _, algorithm, cookie, saveUninitialized, rolling, idGenerator, userId, ...options
  } = resolveOptions('session', SESSION_OPTIONS, given)
  const { cookieName, cookiePrefix } = options
  checkBrowserRules(cookieName, cookie)
  return {
    ...options,
    session: {
      secret: signerOf(given.secret!, algorithm),
      cookieName,
      saveUninitialized,
      rolling,
      cookie: { path: '/', httpOnly: true, sameSite: 'lax', secure: 'auto', ...cookie },
      ...algorithm !== undefined && { algorithm },
      ...cookiePrefix !== '' && { cookiePrefix },
      ...idGenerator !== undefined && { idGenerator: checkedGenerator(idGenerator) }
    },
    userId: typeof userId === 'function' ? userId : session => Reflect.get(session, userId),
    userProperty: typeof userId === 'function' ? undefined : userId
  }
}

function isSecret (secret: unknown): boolean {
  const isLongEnough = (text: unknown) => typeof text === 'string' && text.length >= 32
  return isLongEnough(secret) || (Array.isArray(secret) && secret.length > 0 && secret.every(isLongEnough)) ||
    isSigner(secret)
}

function isSigner (value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && 'sign' in value && 'unsign' in value
}

function signerOf (
  secret: FastifySessionOptions['secret'], algorithm: string | undefined
): FastifySessionOptions['secret'] {
  return typeof secret === 'string' || Array.isArray(secret)
    ? new CachingSigner(secret, algorithm)
    : checkedSigner(secret)
}

function parseKeys (encrypt: unknown): readonly Buffer[] | undefined {
  const keys = (Array.isArray(encrypt) ? encrypt : [encrypt]).map(bytesOf)
  return keys.length > 0 && keys.every(key => key?.length === 32) ? keys as Buffer[] : undefined
}

function bytesOf (key: unknown): Buffer | undefined {
  if (key instanceof Uint8Array) return Buffer.from(key)
  if (typeof key !== 'string') return undefined
  return /^[\da-f]{64}$/i.test(key)
    ? Buffer.from(key, 'hex')
    : /^[\w+/-]{43}=?$/.test(key) ? Buffer.from(key, 'base64') : undefined
}
