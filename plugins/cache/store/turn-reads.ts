/**
 * Reads each thing once a turn of the event loop, however many ask for it. Nobody is given what was read before he asked:
 * when it is sent, this forgets.
 */
export class TurnReads<T> {
  readonly #sends: (() => number) | undefined
  #reading = new Map<string, Promise<T>>()
  #sent = 0

  /** @param sends - how often the client has sent what it had collected; undefined: it may send each command at once */
  constructor (sends: (() => number) | undefined) {
    this.#sends = sends
  }

  get (key: string, read: () => Promise<T>): Promise<T> {
    const present = this.#present().get(key)
    if (present !== undefined) return present
    const reading = read()
    this.#reading.set(key, reading)
    return reading
  }

  #present (): Map<string, Promise<T>> {
    const sent = this.#sends?.() ?? 0
    if (sent !== this.#sent) this.#reading = new Map()
    this.#sent = sent
    // Nothing is held for longer than it can be of use.
    if (this.#reading.size === 0) (this.#sends === undefined ? process.nextTick : setImmediate)(() => { this.#reading = new Map() })
    return this.#reading
  }
}
