import type { FastifyRequest } from 'fastify'

/**
 * Who reads a request at the moment.
 *
 * - `hooks`: hooks before the cache's look-up
 * - `owner`: the function that names the owner of a response
 * - `handler`: the handler, and the hooks after it
 * - `session`: a session plugin, whose cookie changes nothing unless `request.session` is read
 * - `suite`: the suite itself, for what does not change the response, such as a key, a limit or a log line
 */
export type Reader = 'hooks' | 'owner' | 'handler' | 'session' | 'suite'

/** Records what is read of a request, as a response that depends on it must not be shared. */
export interface ReadRecorder {
  reader: Reader
  /** `request.session` was read. */
  readSession (): void
}

/** The property of a raw request that holds its recorder. */
export const READS = Symbol('fastify-redis-suite.reads')

export function recorderOf ({ raw }: Pick<FastifyRequest, 'raw'>): ReadRecorder | undefined {
  return (raw as { [READS]?: ReadRecorder })[READS]
}

/** Runs `work`, and records what it reads as read by `reader`. Only its synchronous part counts, as other code runs after that. */
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
