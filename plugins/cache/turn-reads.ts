/**
 * Reads each thing once a turn of the event loop, however many ask for it. Nobody is given what was read before he asked:
 * what is asked for in a turn is sent at its end, and with that this forgets.
 */
export class TurnReads<T> {
  readonly #atEnd: (forget: () => void) => void
  #reading = new Map<string, Promise<T>>()

  /** @param pipelines - whether the client sends a turn's commands at its end; if not, each is sent at once */
  constructor (pipelines: boolean) {
    this.#atEnd = pipelines ? setImmediate : process.nextTick
  }

  get (key: string, read: () => Promise<T>): Promise<T> {
    const present = this.#reading.get(key)
    if (present !== undefined) return present
    // Asked for before the client asks for its own, so that it runs first.
    if (this.#reading.size === 0) this.#atEnd(() => { this.#reading = new Map() })
    const reading = read()
    this.#reading.set(key, reading)
    return reading
  }
}
