import type { Clock, Timer } from '../shared/plugin/clock.js'
import type { ReleaseListener } from './store.js'

/** Where one waits to be called. A call that comes while he does not listen is kept for him. */
export class Waiter {
  readonly #clock: Clock
  #isRung = false
  #wake: (() => void) | undefined

  constructor (clock: Clock) {
    this.#clock = clock
  }

  readonly notify = (): void => {
    this.#isRung = true
    this.#wake?.()
  }

  /** Resolves when it rings or has rung, at the latest after `ms`. */
  async wait (ms: number): Promise<void> {
    let timer: Timer | undefined
    await new Promise<void>(resolve => {
      if (this.#isRung) return resolve()
      this.#wake = resolve
      timer = this.#clock.setTimeout(resolve, ms)
    })
    this.#clock.clearTimeout(timer)
    this.#isRung = false
  }
}

/** The bells of all who wait in this process, by the name they are called by. */
export class Waiters implements ReleaseListener {
  readonly #clock: Clock
  readonly #bells = new Map<string, Set<Waiter>>()

  constructor (clock: Clock) {
    this.#clock = clock
  }

  register (name: string): Waiter {
    const bell = new Waiter(this.#clock)
    const bells = this.#bells.get(name) ?? new Set()
    this.#bells.set(name, bells.add(bell))
    return bell
  }

  remove (name: string, bell: Waiter): void {
    const bells = this.#bells.get(name)
    bells?.delete(bell)
    if (bells?.size === 0) this.#bells.delete(name)
  }

  readonly call = (name: string): void => {
    for (const bell of this.#bells.get(name) ?? []) bell.notify()
  }

  readonly callAll = (): void => {
    for (const name of this.#bells.keys()) this.call(name)
  }
}
