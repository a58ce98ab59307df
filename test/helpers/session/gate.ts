interface Hold {
  arrived: Promise<void>
  arrive: () => void
  opened: Promise<void>
  open: () => void
}

/** Holds requests at one point of their handlers, so that a test decides what happens in between. */
export class Gate {
  readonly #holds = new Map<string, Hold>()

  /** Called by a handler: resolves when the test opens the gate for this id. */
  async wait (id: string): Promise<void> {
    const hold = this.#holdOf(id)
    hold.arrive()
    await hold.opened
  }

  /** Resolves when a handler waits for this id. */
  async arrival (id: string): Promise<void> {
    await this.#holdOf(id).arrived
  }

  open (id: string): void {
    this.#holdOf(id).open()
  }

  #holdOf (id: string): Hold {
    const present = this.#holds.get(id)
    if (present !== undefined) return present
    const hold: Partial<Hold> = {}
    hold.arrived = new Promise(resolve => { hold.arrive = resolve })
    hold.opened = new Promise(resolve => { hold.open = resolve })
    this.#holds.set(id, hold as Hold)
    return hold as Hold
  }
}
