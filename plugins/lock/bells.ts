import type { Calls } from './store.js'

/** Where one waits to be called. A call that comes while he does not listen is kept for him. */
export class Bell {
  #isRung = false
  #wake: (() => void) | undefined

  readonly ring = (): void => {
    this.#isRung = true
    this.#wake?.()
  }

  /** Resolves when it rings or has rung, at the latest after `ms`. */
  async wait (ms: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>(resolve => {
      if (this.#isRung) return resolve()
      this.#wake = resolve
      timer = setTimeout(resolve, ms)
    })
    clearTimeout(timer)
    this.#isRung = false
  }
}

/** The bells of all who wait in this process, by the name they are called by. */
export class Bells implements Calls {
  readonly #bells = new Map<string, Set<Bell>>()

  hang (name: string): Bell {
    const bell = new Bell()
    const bells = this.#bells.get(name) ?? new Set()
    this.#bells.set(name, bells.add(bell))
    return bell
  }

  remove (name: string, bell: Bell): void {
    const bells = this.#bells.get(name)
    bells?.delete(bell)
    if (bells?.size === 0) this.#bells.delete(name)
  }

  readonly call = (name: string): void => {
    for (const bell of this.#bells.get(name) ?? []) bell.ring()
  }

  readonly callAll = (): void => {
    for (const name of this.#bells.keys()) this.call(name)
  }
}
