import type { Clock, Timer } from '../../shared/plugin/clock.js'
import { FactoryTimeoutError } from '../errors.js'
import type { Cached } from './jsonify.js'

export interface FactoryContext<T = unknown> {
  key: string
  /** Aborted when nobody waits any more: after the hard time-out, or when the caller gave up. */
  signal: AbortSignal
  /** What there was before, where it may still be given if this fails. */
  stale: Cached<T> | undefined
}

/** Makes a value; `null` or `undefined` where there is none. */
export type Factory<T> = (context: FactoryContext<T>) => T | Promise<T>

interface Limits {
  /** For messages. */
  key: string
  /** Milliseconds; Infinity for none. */
  hardTimeout: number
  clock: Clock
  /** Gives it up where nobody else waits. */
  signal?: AbortSignal | undefined
  /** The others, who may give up as well. */
  others?: { readonly isAwaited: boolean, onLeft (listener: () => void): void } | undefined
}

/**
 * Runs what makes or writes a value, with an end.
 *
 * @throws `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`, or what it throws itself, or the reason of the signal
 */
export async function runFactory<T> (work: (signal: AbortSignal) => T | Promise<T>, { key, hardTimeout, clock, signal, others }: Limits): Promise<T> {
  const controller = new AbortController()
  let timer: Timer | undefined
  let giveUp = (): void => {}
  const end = new Promise<never>((_resolve, reject) => {
    const abort = (reason: unknown): void => {
      // In this order: what the work makes of it is not the reason.
      reject(reason)
      controller.abort(reason)
    }
    if (hardTimeout !== Infinity) timer = clock.setTimeout(() => abort(new FactoryTimeoutError(key, hardTimeout)), hardTimeout)
    giveUp = () => { if (signal?.aborted && !others?.isAwaited) abort(signal.reason) }
  })
  // It may come when the work has long been done.
  end.catch(() => {})
  signal?.addEventListener('abort', giveUp)
  others?.onLeft(giveUp)
  giveUp()
  try {
    return await Promise.race([work(controller.signal), end])
  } finally {
    clock.clearTimeout(timer)
    signal?.removeEventListener('abort', giveUp)
  }
}

/** The same result, unless the caller gives up before. */
export async function untilAborted<T> (work: Promise<T>, signal: AbortSignal): Promise<T> {
  let stop = (): void => {}
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop)
  })
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
