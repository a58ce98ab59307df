import type { TakenEvent } from './store.js'

/** An event that this process has taken. */
export interface InFlightEvent {
  readonly event: TakenEvent
  /** How often it was given. */
  deliveryCount: number
  /** Whether it was given before more than once by somebody who is gone: perhaps by it. */
  readonly isPoisonSuspect: boolean
  isRunning: boolean
  /** Not before this, by the clock of this process. */
  retryAt: number
  /** Why it is given up. */
  deadReason: string | undefined
}

/** The events that were taken, in order. While one is handled or waits to be given again, so do all later ones of its key, and no others. */
export class InFlightEvents {
  readonly #held = new Map<string, InFlightEvent>()

  get size (): number {
    return this.#held.size
  }

  get running (): InFlightEvent[] {
    return [...this.#held.values()].filter(({ isRunning }) => isRunning)
  }

  /** When, after this time, the next one that waits may be given; Infinity: none waits. */
  retryAfter (now: number): number {
    let first = Infinity
    for (const { retryAt, isRunning } of this.#held.values()) if (retryAt > now && !isRunning) first = Math.min(first, retryAt)
    return first
  }

  find (event: TakenEvent): InFlightEvent | undefined {
    return this.#held.get(nameOf(event))
  }

  push (held: InFlightEvent): void {
    this.#held.set(nameOf(held.event), held)
  }

  remove (held: InFlightEvent): void {
    this.#held.delete(nameOf(held.event))
  }

  /** What may be given at this time. */
  next (now: number, most: number): InFlightEvent[] {
    const blocked = new Set<string>()
    const found: InFlightEvent[] = []
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
