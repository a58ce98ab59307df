import { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { reasonOf } from '../shared/errors.js'

/** What was invalidated: tags (`*`: everything), one key, or all that a pattern matches. */
export interface Invalidation {
  tags?: readonly string[]
  key?: string
  pattern?: string
  /** Whether this process did it, or another one, which is told where there is a first tier. */
  origin: 'local' | 'remote'
}

/** Of an answer the key is its path and query, of a value its key. */
export interface CacheEvents {
  invalidate: Invalidation
  hit: { key: string, tier: 'l1' | 'l2' }
  stale: { key: string }
  miss: { key: string }
  /** Somebody waits for another one's making. */
  coalesce: { key: string }
  store: { key: string, bytes: number }
  /** What failed without the caller being told: a factory behind a stale value, or the store. */
  error: { key?: string, error: Error }
}

export type CacheListener<E extends keyof CacheEvents> = (event: CacheEvents[E]) => void

/** Tells listeners; one that throws is logged and stops neither the others nor the cache. */
export class Events {
  readonly #emitter = new EventEmitter()
  readonly #log: FastifyBaseLogger

  constructor (log: FastifyBaseLogger) {
    this.#log = log
    this.#emitter.setMaxListeners(0)
  }

  /** @returns a function that ends it */
  on <E extends keyof CacheEvents>(name: E, listener: CacheListener<E>): () => void {
    const safe = (event: CacheEvents[E]): void => {
      try {
        listener(event)
      } catch (error) {
        this.#log.error({ plugin: 'cache', event: name, reason: reasonOf(error) }, 'cache: a listener failed')
      }
    }
    // An emitter throws an event of the name `error` that nobody hears.
    this.#emitter.on(`cache:${name}`, safe)
    return () => { this.#emitter.off(`cache:${name}`, safe) }
  }

  hears (name: keyof CacheEvents): boolean {
    return this.#emitter.listenerCount(`cache:${name}`) > 0
  }

  emit <E extends keyof CacheEvents>(name: E, event: CacheEvents[E]): void {
    this.#emitter.emit(`cache:${name}`, event)
  }
}
