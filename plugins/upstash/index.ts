import { Redis, type RedisConfigNodejs } from '@upstash/redis'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { duration, option, required, string } from '../shared/plugin/option-kinds.js'
import { readOptions, type OptionTable } from '../shared/plugin/option-table.js'
import { connectUpstash, type Requester, type UpstashClient } from '../shared/redis/clients/upstash.js'

export type { Duration } from '../shared/plugin/duration.js'
export type { UpstashClient } from '../shared/redis/clients/upstash.js'

/** Options of {@link fromUpstash} that the package does not have, or that are required. */
export interface UpstashClientOptions {
  /** The address of the database's REST API, as `UPSTASH_REDIS_REST_URL` has it. */
  url: string
  /** The token of the REST API, as `UPSTASH_REDIS_REST_TOKEN` has it. */
  token: string
  /** How long one request of a plugin may take before it is aborted. It may still be executed. @default 5 seconds */
  requestTimeout?: Duration | undefined
}

/** Options of {@link fromUpstash}: its own, and those of the package's `Redis`, which apply to your own commands. */
export type UpstashOptions = UpstashClientOptions & Omit<RedisConfigNodejs, keyof UpstashClientOptions>

const UPSTASH_OPTIONS = {
  url: required({
    ...option<string>({
      type: 'string',
      allowed: 'the https:// address of the REST API',
      parse: given => typeof given === 'string' && /^https?:/.test(given) && URL.canParse(given) ? given : undefined
    }),
    // It may be the address for TCP, which has a password.
    secret: 'another value'
  }),
  token: required({
    ...string(undefined, 'the token of the REST API', /^[\x21-\x7e]+$/), secret: 'another value'
  }),
  requestTimeout: duration('5s', { min: 1, max: MAX_TIMER_MS })
} satisfies OptionTable<UpstashClientOptions>

/**
 * Creates a client of Upstash, which sends commands over HTTP, for the option `client` of the plugin redis or the
 * option `redis` of another plugin. It is a `Redis` of `@upstash/redis` for your own commands.
 *
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 * @example
 * const client = fromUpstash({
 *   url: process.env.UPSTASH_REDIS_REST_URL, token: process.env.UPSTASH_REDIS_REST_TOKEN
 * })
 * await app.register(redis, { client })
 * await app.register(rateLimit, { max: 100, timeWindow: '1m' })
 */
export function fromUpstash (options: UpstashOptions): Redis & UpstashClient {
  const { url, token, requestTimeout } = readOptions('redis', UPSTASH_OPTIONS, Object(options) as UpstashOptions)
  const { requestTimeout: _own, ...config } = options
  const client = new Redis(config)
  const plain = new Redis({
    ...config,
    url,
    token,
    // The plugins decode replies themselves, as some are bytes; repeat what may be repeated; and collect commands.
    responseEncoding: false,
    retry: { retries: 0 },
    enableAutoPipelining: false,
    signal: () => AbortSignal.timeout(requestTimeout)
  })
  connectUpstash(client, url, requesterOf(plain))
  return client
}

/** Returns the function that the package's own commands are sent by, which has no public name. */
function requesterOf (redis: Redis): Requester {
  const requester = Reflect.get(redis, 'client') as { request: Requester }
  return request => requester.request(request)
}
