import type { FastifyBaseLogger } from 'fastify'
import { reasonOf } from '../../shared/plugin/errors.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import type { Events } from '../events.js'

/** Calls the store where the caller is not told of a failure: it is counted, and told to who listens. */
export class Attempts {
  readonly #run: RedisGuard['run']
  readonly #events: Events
  readonly #log: FastifyBaseLogger
  readonly #background = new Set<Promise<unknown>>()
  #failed = 0

  constructor (run: RedisGuard['run'], events: Events, log: FastifyBaseLogger) {
    this.#run = run
    this.#events = events
    this.#log = log
  }

  get failed (): number {
    return this.#failed
  }

  /** @returns undefined where it failed */
  async make<T> (operation: () => Promise<T>): Promise<T | undefined> {
    try {
      return await this.#run(operation)
    } catch (error) {
      this.#failed++
      this.#log.debug({ plugin: 'cache', reason: reasonOf(error) }, 'cache: the store did not answer')
      if (error instanceof Error) this.#events.emit('error', { error })
      return undefined
    }
  }

  /** What nobody waits for, until it is over with all. */
  inBackground (work: Promise<unknown>): void {
    this.#background.add(work)
    work.finally(() => this.#background.delete(work)).catch(() => {})
  }

  /** Waits for what is in the background. */
  async settle (): Promise<void> {
    while (this.#background.size > 0) await Promise.allSettled(this.#background)
  }
}
