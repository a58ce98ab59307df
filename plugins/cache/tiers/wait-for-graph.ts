import { AsyncLocalStorage } from 'node:async_hooks'
import { ReentrantError } from '../errors.js'

/** A value that callers wait for: its factory runs, or will run after another one. */
export interface Waitable {
  /** The factory that makes it, while that runs. */
  making?: Fabrication | undefined
  /** The value that it waits for itself, until its factory runs. */
  after?: Waitable | undefined
}

/** A factory that runs, with all that it waits for. */
export interface Fabrication {
  readonly label: string
  /** An object for each wait, as a factory may wait for one thing several times at once. */
  readonly waits: Set<{ readonly for: Waitable }>
}

const context = new AsyncLocalStorage<Fabrication | undefined>()
let running = 0

/** The factory that the present code is called by. */
function current (): Fabrication | undefined {
  return running > 0 ? context.getStore() : undefined
}

/**
 * Runs what makes a value, so that it is known by whom what it asks for is asked. The context is tracked only while something runs here, as
 * tracking makes each promise of the process dearer.
 */
export async function runMaking<T> (made: Waitable, label: string, make: () => Promise<T>): Promise<T> {
  const making: Fabrication = { label, waits: new Set() }
  const asking = current()
  made.making = making
  made.after = undefined
  running++
  const run = () => context.run(making, make)
  try {
    return await (asking === undefined ? run() : waitIn(asking, made, run))
  } finally {
    made.making = undefined
    if (--running === 0) context.disable()
  }
}

/** Runs what nobody waits for, so that it is not taken for a part of the factory that started it. */
export function inNoMaking<T> (work: () => T): T {
  return current() === undefined ? work() : context.run(undefined, work)
}

/**
 * Waits for something, unless it waits for the factory that asks.
 *
 * @throws `FST_REDIS_SUITE_CACHE_REENTRANT`
 */
export function waitingFor<T> (target: Waitable, wait: () => Promise<T>): Promise<T> {
  const asking = current()
  return asking === undefined ? wait() : waitIn(asking, target, () => { refuseCircle(target); return wait() })
}

async function waitIn<T> (asking: Fabrication, target: Waitable, wait: () => Promise<T>): Promise<T> {
  const edge = { for: target }
  try {
    const waiting = wait()
    asking.waits.add(edge)
    return await waiting
  } finally {
    asking.waits.delete(edge)
  }
}

/** @throws `FST_REDIS_SUITE_CACHE_REENTRANT` where the target waits for the factory that asks */
export function refuseCircle (target: Waitable): void {
  const asking = current()
  const path = asking && pathTo(asking, target, new Set())
  if (path !== undefined) throw new ReentrantError([...path, path[0]].join(' → '))
}

/** The labels of the factories from a target to the one that asks; undefined where none of them waits for that. */
function pathTo (asking: Fabrication, target: Waitable, seen: Set<Waitable>): string[] | undefined {
  if (seen.has(target)) return undefined
  seen.add(target)
  const { making, after } = target
  if (making === undefined) return after && pathTo(asking, after, seen)
  if (making === asking) return [making.label]
  for (const wait of making.waits) {
    const path = pathTo(asking, wait.for, seen)
    if (path !== undefined) return [making.label, ...path]
  }
  return undefined
}
