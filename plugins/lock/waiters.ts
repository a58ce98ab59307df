import type { Clock, Timer } from '../shared/plugin/clock.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import type { ReleaseListener } from './store.js'

/** Waits for notifications. One that comes between two waits ends the next wait at once. */
class Waiter {
  readonly #clock: Clock
  #isNotified = false
  #wake: (() => void) | undefined

  constructor (clock: Clock) {
    this.#clock = clock
  }

  readonly notify = (): void => {
    this.#isNotified = true
    this.#wake?.()
  }

  /** Resolves at a notification, at the latest after `ms`. */
  async wait (ms: Milliseconds): Promise<void> {
    let timer: Timer | undefined
    await new Promise<void>(resolve => {
      if (this.#isNotified) return resolve()
      this.#wake = resolve
      timer = this.#clock.setTimeout(resolve, ms)
    })
    this.#clock.clearTimeout(timer)
    this.#isNotified = false
  }
}

/** All waiters of this process, by the name that is notified. */
export class Waiters implements ReleaseListener {
  readonly #clock: Clock
  readonly #byName = new Map<string, Set<Waiter>>()

  constructor (clock: Clock) {
    this.#clock = clock
  }

  register (name: string): Waiter {
    const waiter = new Waiter(this.#clock)
    const waiters = this.#byName.get(name) ?? new Set()
    this.#byName.set(name, waiters.add(waiter))
    return waiter
  }

  remove (name: string, waiter: Waiter): void {
    const waiters = this.#byName.get(name)
    waiters?.delete(waiter)
    if (waiters?.size === 0) this.#byName.delete(name)
  }

  readonly notify = (name: string): void => {
    for (const waiter of this.#byName.get(name) ?? []) waiter.notify()
  }

  readonly notifyAll = (): void => {
    for (const name of this.#byName.keys()) this.notify(name)
  }
}
