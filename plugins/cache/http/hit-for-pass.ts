import { LRUCache } from 'lru-cache'
import type { Clock } from '../../shared/plugin/clock.js'

/** How long requests of a key are not coalesced after one of its responses turned out not to be shareable. */
const PASS_MS = 10_000
const MAX_KEYS = 10_000

/**
 * Keys whose responses depend on more than the key: their requests need not wait for a response that they cannot share
 * ("hit-for-pass").
 */
export class HitForPass {
  readonly #clock: Clock
  readonly #keys = new LRUCache<string, { names: string[], until: number }>({ max: MAX_KEYS })

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** @param names - what the response depends on. Requests that carry none of them still share. */
  add (id: string, names: string[]): void {
    this.#keys.set(id, { names, until: this.#clock.monotonic() + PASS_MS })
  }

  /**
   * Returns the names that responses of a key depend on, if the request carries one of them and so must not wait;
   * otherwise undefined.
   *
   * @param carries - whether the request carries a name
   */
  namesFor (id: string, carries: (name: string) => boolean): readonly string[] | undefined {
    if (this.#keys.size === 0) return undefined
    const present = this.#keys.get(id)
    return present !== undefined && present.until > this.#clock.monotonic() && present.names.some(carries)
      ? present.names
      : undefined
  }
}
