import type { FastifyRequest } from 'fastify'

/**
 * The code that reads a request at the moment.
 *
 * - `hooks`: hooks before the cache's look-up
 * - `owner`: the function that returns the owner of a response
 * - `handler`: the handler, and the hooks after it
 * - `session`: a session plugin, whose cookie changes nothing unless `request.session` is read
 * - `suite`: the suite itself, for a purpose that does not change the response, such as a key, a limit or a log line
 */
export type Reader = 'hooks' | 'owner' | 'handler' | 'session' | 'suite'

/** Records the parts of a request that are read: a response that depends on them must not be shared. */
export interface ReadRecorder {
  reader: Reader
  /** Records a read of `request.session`. */
  readSession (): void
}

/** The property of a raw request with its recorder. */
export const READS = Symbol('fastify-redis-suite.reads')

export function recorderOf ({ raw }: Pick<FastifyRequest, 'raw'>): ReadRecorder | undefined {
  return (raw as { [READS]?: ReadRecorder })[READS]
}

/** Runs `work`, and attributes the reads of its synchronous part to `reader`. */
export function readingAs<T> (reader: Reader, request: Pick<FastifyRequest, 'raw'>, work: () => T): T {
  const recorder = recorderOf(request)
  if (recorder === undefined) return work()
  const before = recorder.reader
  recorder.reader = reader
  try {
    return work()
  } finally {
    recorder.reader = before
  }
}
