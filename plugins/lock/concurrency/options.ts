import type { FastifyRequest } from 'fastify'
import type { Duration } from '../../shared/plugin/duration.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { callable, duration, integer, required, withDefault } from '../../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../../shared/plugin/option-table.js'

const DAY = 86_400_000

/** How many requests of a route are handled at once: `config.concurrency`. */
export interface ConcurrencyOptions {
  /** How many requests of a key are handled at once, on all instances together. */
  max: number
  /**
   * Returns the key that the request counts for. Any result but a string, a finite number or a bigint is an error.
   *
   * @default one for all requests of the route
   */
  key?: ((request: FastifyRequest) => MaybePromise<string | number | bigint>) | undefined
  /** How many requests of a key wait in this process. One more is refused at once. @default 0 */
  queue?: number | undefined
  /** How long a request waits. @default '10s' */
  wait?: Duration | undefined
  /** How long the place of an instance that died is taken. @default the plugin's `ttl` */
  ttl?: Duration | undefined
}

export const CONCURRENCY_OPTIONS = {
  max: required(integer(undefined, { min: 1, max: 100_000 })),
  key: callable('`(request) => string | number | bigint`', undefined, 'one for all requests of the route'),
  queue: integer(0, { max: 100_000 }),
  wait: duration('10s', { max: DAY }),
  ttl: withDefault(duration(undefined, { min: 100, max: DAY }), 'the plugin\'s `ttl`')
} satisfies OptionTable<ConcurrencyOptions>

export type ResolvedConcurrency = Resolved<typeof CONCURRENCY_OPTIONS>

/** @throws `FST_REDIS_SUITE_LOCK_INVALID_OPTION` */
export function resolveConcurrency (given: object): ResolvedConcurrency {
  return resolveOptions('lock', CONCURRENCY_OPTIONS, given)
}
