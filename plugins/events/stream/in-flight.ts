import type { TakenEvent } from './store.js'

/** An event that this process has taken. */
export interface Held {
  readonly event: TakenEvent
  /** How often it was given. */
  given: number
  /** Whether it was given before more than once by somebody who is gone: perhaps by it. */
  readonly isSuspect: boolean
  isRunning: boolean
  /** Not before this, by the clock of this process. */
  retryAt: number
  /** Why it is given up. */
  doomed: string | undefined
}

/** The events that were taken, in order. While one is handled or waits to be given again, so do all later ones of its key, and no others. */
export class Line {
  readonly #held = new Map<string, Held>()

  get size (): number {
    return this.#held.size
  }

  get running (): Held[] {
    return [...this.#held.values()].filter(({ isRunning }) => isRunning)
  }

  /** When, after this time, the next one that waits may be given; Infinity: none waits. */
  retryAfter (now: number): number {
    let first = Infinity
    for (const { retryAt, isRunning } of this.#held.values()) if (retryAt > now && !isRunning) first = Math.min(first, retryAt)
    return first
  }

  find (event: TakenEvent): Held | undefined {
    return this.#held.get(nameOf(event))
  }

  push (held: Held): void {
    this.#held.set(nameOf(held.event), held)
  }

  remove (held: Held): void {
    this.#held.delete(nameOf(held.event))
  }

  /** What may be given at this time. */
  next (now: number, most: number): Held[] {
    const blocked = new Set<string>()
    const found: Held[] = []
    for (const held of this.#held.values()) {
      if (found.length >= most) break
      const { key } = held.event
      if (!held.isRunning && held.retryAt <= now && (key === undefined || !blocked.has(key))) found.push(held)
      if (key !== undefined) blocked.add(key)
    }
    return found
  }
}

function nameOf ({ source, entry }: TakenEvent): string {
  return `${source} ${entry}`
}
