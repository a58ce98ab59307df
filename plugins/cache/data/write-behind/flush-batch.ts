import type { Clock } from '../../../shared/plugin/clock.js'
import { withDeadline } from '../../../shared/redis/deadline.js'
import type { Lease } from '../../../shared/work-queue/lease.js'
import { timeOfId } from '../../../shared/work-queue/stream-ids.js'
import type { QueuedWrite } from './write-queue.js'
import type { ResolvedWriteBehindOptions, Write } from './options.js'

/** Gives writes to the source, and tells it to stop when the lease is lost or the time is over. */
export async function flushBatch<T> (
  { write, hardTimeout }: ResolvedWriteBehindOptions<T>, lease: Lease, batch: ReadonlyArray<Write<T>>, clock: Clock
): Promise<void> {
  const stop = new AbortController()
  const onLost = () => stop.abort()
  lease.signal.addEventListener('abort', onLost)
  try {
    const { signal } = stop
    await withDeadline(Promise.resolve(batch).then(given => write(given as never, { signal, fence: lease.fence })), hardTimeout, () => {
      stop.abort()
      return new Error(`not written within ${hardTimeout} ms`)
    }, clock)
  } finally {
    lease.signal.removeEventListener('abort', onLost)
  }
}

/** Asks the app whether an error is that of the source as a whole. Rejects where its function does, or where that takes too long. */
export async function isOutageOf<T> ({ isOutage, hardTimeout }: ResolvedWriteBehindOptions<T>, error: unknown, clock: Clock): Promise<boolean> {
  const asked = Promise.resolve(error).then(isOutage)
  return Boolean(await withDeadline(asked, hardTimeout, () => new Error(`no result within ${hardTimeout} ms`), clock))
}

export function toWrite<T> ({ id, key, value, deliveryCount }: QueuedWrite<T>, partition: number): Write<T> {
  return { id: `${id}.${partition}`, key, value: value as T, attempt: deliveryCount + 1, acceptedAt: timeOfId(id) }
}
