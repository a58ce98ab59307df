import type { FactoryContext } from '../../../plugins/cache/index.js'

/** A factory that counts its runs. */
export function counting<T> (make: (run: number, context: FactoryContext<T>) => T | Promise<T>) {
  const factory = Object.assign((context: FactoryContext<T>) => make(++factory.runs, context), { runs: 0 })
  return factory
}

export interface Gate {
  open (): void
  readonly opened: Promise<void>
}

/** A promise that the test resolves. */
export function createGate (): Gate {
  let open = (): void => {}
  const opened = new Promise<void>(resolve => { open = resolve })
  return { open, opened }
}

export interface Step {
  /** Resolves when {@link run} has been called. */
  readonly begun: Promise<void>
  end (value: string): void
  /** Resolves with the argument of `end`. */
  run (): Promise<string>
}

/** Creates a factory or a writer that ends when the test decides. */
export function createStep (): Step {
  const start = createGate()
  let end = (_value: string): void => {}
  const done = new Promise<string>(resolve => { end = resolve })
  return { begun: start.opened, end: value => end(value), run: async () => { start.open(); return await done } }
}

export const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
