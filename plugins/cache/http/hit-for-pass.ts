import { LRUCache } from 'lru-cache'
import type { Clock } from '../../shared/plugin/clock.js'

/** For how long requests of a key do not wait for one another after a response of it was not shareable. */
const PASS_MS = 10_000
const MOST_KEYS = 10_000

/** Keys of which responses depend on what they do not hold: their requests need not queue for a response that they cannot share ("hit-for-pass"). */
export class HitForPass {
  readonly #clock: Clock
  readonly #keys = new LRUCache<string, { names: string[], until: number }>({ max: MOST_KEYS })

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** @param names - what the response depends on: requests without any of these still share */
  add (id: string, names: string[]): void {
    this.#keys.set(id, { names, until: this.#clock.monotonic() + PASS_MS })
  }

  /** Returns what responses of a key depend on, where a request that carries one of the names is to pass. */
  namesFor (id: string, carries: (name: string) => boolean): readonly string[] | undefined {
    if (this.#keys.size === 0) return undefined
    const present = this.#keys.get(id)
    return present !== undefined && present.until > this.#clock.monotonic() && present.names.some(carries) ? present.names : undefined
  }
}
