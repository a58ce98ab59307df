/** Lets the first of several callers with one key work, while the others wait for it. */
export class Coalescer {
  #working = new Map<string, Promise<void>>()

  /**
   * @returns a function that ends the work, for the caller who is to do it; or a promise that resolves when another
   * caller has ended it, at the latest after `patience` milliseconds
   */
  enter (key: string, patience: number): { end: () => void } | { wait: Promise<void> } {
    const work = this.#working.get(key)
    if (work !== undefined) return { wait: withPatience(work, patience) }
    let end = (): void => {}
    const mine = new Promise<void>(resolve => {
      end = () => {
        if (this.#working.get(key) === mine) this.#working.delete(key)
        resolve()
      }
    })
    this.#working.set(key, mine)
    return { end }
  }
}

function withPatience (work: Promise<void>, patience: number): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(resolve, patience)
    work.then(() => { clearTimeout(timer); resolve() }, resolve)
  })
}
