/** Lets many through at a time, or one alone; first come, first served. */
export class Gate {
  #inside = 0
  #isAlone = false
  readonly #waiting: Array<{ alone: boolean, enter: () => void }> = []

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

  #admit (): void {
    for (let next = this.#waiting[0]; next !== undefined && !this.#isAlone && !(next.alone && this.#inside > 0); next = this.#waiting[0]) {
      this.#waiting.shift()
      this.#inside++
      this.#isAlone = next.alone
      next.enter()
    }
  }
}
