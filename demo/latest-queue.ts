/** A queue for one reader that drops its oldest items when it is full. The signal ends it. */
export class LatestQueue<T> {
  readonly #max: number
  readonly #signal: AbortSignal | undefined
  #items: T[] = []
  #gap = false
  #wake: (() => void) | undefined

  constructor (max: number, signal: AbortSignal | undefined) {
    this.#max = max
    this.#signal = signal
    signal?.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  push (item: T): void {
    this.#items.push(item)
    if (this.#items.length > this.#max) {
      this.#items.shift()
      this.#gap = true
    }
    this.#wake?.()
  }

  /** Yields each item; `gap` is set if items before it were dropped. */
  async * [Symbol.asyncIterator] (): AsyncGenerator<{ item: T, gap?: true }> {
    while (this.#signal?.aborted !== true) {
      const item = this.#items.shift()
      if (item === undefined) {
        await new Promise<void>(resolve => { this.#wake = resolve })
        continue
      }
      const gap = this.#gap
      this.#gap = false
      yield { item, ...gap && { gap } }
    }
  }
}
