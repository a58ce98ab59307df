/** Admits up to a number of callers at a time, or one exclusively, in the order in which they came. */
export class ExclusiveSemaphore {
  readonly #max: number
  #running = 0
  #isExclusive = false
  readonly #waiting: Array<{ isExclusive: boolean, admit: () => void }> = []

  constructor (max = Infinity) {
    this.#max = max
  }

  async run<R> (isExclusive: boolean, work: () => Promise<R>): Promise<R> {
    await new Promise<void>(resolve => {
      this.#waiting.push({ isExclusive, admit: resolve })
      this.#admit()
    })
    try {
      return await work()
    } finally {
      this.#running--
      this.#isExclusive = false
      this.#admit()
    }
  }

  #admit (): void {
    for (let [next] = this.#waiting; next !== undefined && this.#hasRoomFor(next.isExclusive); [next] = this.#waiting) {
      this.#waiting.shift()
      this.#running++
      this.#isExclusive = next.isExclusive
      next.admit()
    }
  }

  #hasRoomFor (isExclusive: boolean): boolean {
    return !this.#isExclusive && this.#running < (isExclusive ? 1 : this.#max)
  }
}
