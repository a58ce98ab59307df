import { performance } from 'node:perf_hooks'
import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../shared/client.js'
import { followChannel } from '../shared/feed.js'
import { isRecord, isTexts } from './entry.js'
import { parseJson } from './json.js'
import type { L1 } from './l1.js'

/** Nothing is served out of L1 for longer than this after it was invalidated on another instance. */
export const LEASE_MS = 100

/** Keeps the first tiers of all instances in step. */
export interface Coherence {
  /** Whether all that was published up to `LEASE_MS` ago is known to have been heard. */
  readonly isCurrent: boolean
  close (): void
}

/**
 * Instances tell each other by pub/sub what they invalidate, which takes about a millisecond. That nothing was missed is
 * not hoped: while L1 is in use, a PING on the subscriber's connection, whose reply comes after all messages before it,
 * is asked for every half a lease, and without a reply of the last lease L1 is not used.
 *
 * @param keepsAlone - whether L1 is kept while nothing can be heard
 */
export function createCoherence (client: RedisClient, channel: string, l1: L1, log: FastifyBaseLogger, keepsAlone: boolean): Coherence {
  let provenAt = -Infinity
  let proving = false
  const feed = followChannel({
    client,
    channel,
    log,
    without: 'cache: cannot hear of invalidations, so there is no first tier',
    onMessage: text => apply(l1, text),
    onGap () {
      provenAt = -Infinity
      if (feed.live || !keepsAlone) l1.clear()
    }
  })

  function prove (): void {
    if (proving) return
    proving = true
    const asked = performance.now()
    feed.caughtUp().then(() => { if (feed.live) provenAt = asked }, () => {}).finally(() => { proving = false })
  }

  return {
    get isCurrent () {
      if (!feed.live) return false
      const age = performance.now() - provenAt
      if (age > LEASE_MS / 2) prove()
      return age <= LEASE_MS
    },
    close: feed.close
  }
}

/** What cannot be read may have been anything. */
function apply (l1: L1, text: string): void {
  const message = parseJson(text)
  if (isRecord(message) && isTexts(message['tags'])) l1.invalidate(message['tags'])
  else if (isRecord(message) && isTexts(message['ids'])) l1.remove(message['ids'])
  else l1.clear()
}
