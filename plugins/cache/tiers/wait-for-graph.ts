import { AsyncLocalStorage } from 'node:async_hooks'
import { ReentrantError } from '../errors.js'

/** A value that callers wait for: a node of the wait-for graph. */
export interface WaitTarget {
  /** The factory run that computes the value, while it lasts. */
  run?: FactoryRun | undefined
  /** Another value that has to be ready before the factory runs. */
  blockedBy?: WaitTarget | undefined
}

/** A factory that is running, and the values that it waits for. */
interface FactoryRun {
  readonly label: string
  /** One edge a wait, as a factory may wait for one value several times at once. */
  readonly edges: Set<{ readonly to: WaitTarget }>
}

const context = new AsyncLocalStorage<FactoryRun | undefined>()
let running = 0

/** Returns the factory run that called the present code. */
function currentRun (): FactoryRun | undefined {
  return running > 0 ? context.getStore() : undefined
}

/**
 * Runs a factory as the one that computes `target`, so that cycles of waits are found.
 *
 * The async context is tracked only while a factory runs, as tracking slows down each promise of the process.
 */
export async function trackRun<T> (target: WaitTarget, label: string, factory: () => Promise<T>): Promise<T> {
  const factoryRun: FactoryRun = { label, edges: new Set() }
  const caller = currentRun()
  target.run = factoryRun
  target.blockedBy = undefined
  running++
  const run = () => context.run(factoryRun, factory)
  try {
    return await (caller === undefined ? run() : waitOnEdge(caller, target, run))
  } finally {
    target.run = undefined
    if (--running === 0) context.disable()
  }
}

/** Runs background work outside of the factory run that starts it, as that run does not wait for it. */
export function runUntracked<T> (work: () => T): T {
  return currentRun() === undefined ? work() : context.run(undefined, work)
}

/**
 * Waits for a value, unless the value waits for the calling factory.
 *
 * @throws `FST_REDIS_SUITE_CACHE_REENTRANT`
 */
export function waitFor<T> (target: WaitTarget, wait: () => Promise<T>): Promise<T> {
  const caller = currentRun()
  return caller === undefined ? wait() : waitOnEdge(caller, target, () => { refuseCycle(target); return wait() })
}

async function waitOnEdge<T> (caller: FactoryRun, target: WaitTarget, wait: () => Promise<T>): Promise<T> {
  const edge = { to: target }
  try {
    const waiting = wait()
    caller.edges.add(edge)
    return await waiting
  } finally {
    caller.edges.delete(edge)
  }
}

/** @throws `FST_REDIS_SUITE_CACHE_REENTRANT` where the value waits for the calling factory */
export function refuseCycle (target: WaitTarget): void {
  const caller = currentRun()
  const path = caller && findPath(caller, target, new Set())
  if (path !== undefined) throw new ReentrantError([...path, path[0]].join(' → '))
}

/** Returns the labels of the factories from `target` to `caller`, or undefined where no path of waits leads there. */
function findPath (caller: FactoryRun, target: WaitTarget, visited: Set<WaitTarget>): string[] | undefined {
  if (visited.has(target)) return undefined
  visited.add(target)
  const { run, blockedBy } = target
  if (run === undefined) return blockedBy && findPath(caller, blockedBy, visited)
  if (run === caller) return [run.label]
  for (const { to } of run.edges) {
    const path = findPath(caller, to, visited)
    if (path !== undefined) return [run.label, ...path]
  }
  return undefined
}
