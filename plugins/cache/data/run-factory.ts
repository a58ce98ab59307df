import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { FactoryTimeoutError } from '../errors.js'
import type { Fill } from '../tiers/coalescing.js'
import type { Cached } from './jsonify.js'

export interface FactoryContext<T = unknown> {
  key: string
  /** Aborted after `hardTimeout`, or when every caller that waits for the value has given up. */
  signal: AbortSignal
  /** The expired value that `staleIfError` still allows; undefined if there is none. */
  stale: Cached<T> | undefined
}

/** Computes a value; `null` or `undefined` if there is none. */
export type Factory<T> = (context: FactoryContext<T>) => T | Promise<T>

interface RunOptions {
  /** For error messages. */
  key: string
  /** `Infinity` for no limit. */
  hardTimeout: Milliseconds
  clock: Clock
  /** The caller's: aborts the work unless other callers wait for it. */
  signal?: AbortSignal | undefined
  /** The fill that other callers wait for. */
  fill?: Pick<Fill, 'isAwaited' | 'onLeave'> | undefined
}

/**
 * Runs a factory or a writer, with a time limit and an abort signal.
 *
 * @param work - the function that it gets returns the signal
 * @throws `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`, the error of the work, or the reason of the signal
 */
export async function runFactory<T> (
  work: (signalOf: () => AbortSignal) => T | Promise<T>, options: RunOptions
): Promise<T> {
  // Nothing can abort it. A signal that no work reads is not made, as it costs 2 µs.
  if (options.hardTimeout === Infinity && options.signal === undefined) {
    let own: AbortSignal | undefined
    return await work(() => {
      own ??= new AbortController().signal
      return own
    })
  }
  return await runAbortable(work, options)
}

async function runAbortable<T> (
  work: (signalOf: () => AbortSignal) => T | Promise<T>, { key, hardTimeout, clock, signal, fill }: RunOptions
): Promise<T> {
  const controller = new AbortController()
  let timer: Timer | undefined
  let abortIfAbandoned = (): void => {}
  const aborted = new Promise<never>((_resolve, reject) => {
    const abort = (reason: unknown): void => {
      // Rejects first: the work may throw another error when it is aborted.
      reject(reason)
      controller.abort(reason)
    }
    if (hardTimeout !== Infinity) {
      timer = clock.setTimeout(() => abort(new FactoryTimeoutError(key, hardTimeout)), hardTimeout)
    }
    abortIfAbandoned = () => { if (signal?.aborted && !fill?.isAwaited) abort(signal.reason) }
  })
  // It may reject long after the work has ended.
  aborted.catch(() => {})
  signal?.addEventListener('abort', abortIfAbandoned)
  fill?.onLeave(abortIfAbandoned)
  abortIfAbandoned()
  try {
    return await Promise.race([work(() => controller.signal), aborted])
  } finally {
    clock.clearTimeout(timer)
    signal?.removeEventListener('abort', abortIfAbandoned)
  }
}

/** Returns the result of `work`, or rejects with the reason of the signal if it is aborted first. */
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
