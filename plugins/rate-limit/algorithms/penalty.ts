import { longestWindow, type Policy } from '../policy.js'

/** What became of a key that was refused, in this process. `scripts.ts` holds the same for Redis. */
export class PenaltyState {
  #count = 0
  #countedUntil = 0
  #blockedUntil = 0
  #banned = false

  /** Milliseconds for which the key is refused whatever its limits say. */
  blockedFor (now: number): number {
    return Math.max(0, this.#blockedUntil - now)
  }

  isBanned (now: number): boolean {
    return this.#banned && now < this.#blockedUntil
  }

  /** Counts one more refusal, lengthens the penalty and bans, as the policy says. */
  add ({ penalty, ban, banDuration, limits }: Policy, now: number): void {
    if (now >= this.#countedUntil) this.#count = 0
    if (this.isBanned(now)) return
    this.#banned = false
    const window = longestWindow(limits)
    if (this.#count++ === 0) this.#countedUntil = now + window
    if (penalty) {
      this.#blockedUntil = now + Math.min(penalty.base * 2 ** (this.#count - 1), penalty.cap)
      this.#countedUntil = Math.max(this.#countedUntil, this.#blockedUntil + penalty.memory)
    }
    if (ban >= 0 && this.#count > ban) {
      this.#banned = true
      this.#blockedUntil = Math.max(this.#blockedUntil, now + banDuration)
    }
    this.#countedUntil = Math.max(this.#countedUntil, this.#blockedUntil)
  }
}
