/** Lets many through at a time, or one alone; first come, first served. */
export class ExclusiveSemaphore {
  readonly #most: number
  #inside = 0
  #isAlone = false
  readonly #waiting: Array<{ alone: boolean, enter: () => void }> = []

  /** @param most - how many at a time */
  constructor (most = Infinity) {
    this.#most = most
  }

  async run<R> (alone: boolean, work: () => Promise<R>): Promise<R> {
    await new Promise<void>(resolve => {
      this.#waiting.push({ alone, enter: resolve })
      this.#admit()
    })
    try {
      return await work()
    } finally {
      this.#inside--
      this.#isAlone = false
      this.#admit()
    }
  }

  #hasRoomFor (alone: boolean): boolean {
    return !this.#isAlone && this.#inside < (alone ? 1 : this.#most)
  }

  #admit (): void {
    for (let next = this.#waiting[0]; next !== undefined && this.#hasRoomFor(next.alone); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#inside++
      this.#isAlone = next.alone
      next.enter()
    }
  }
}
