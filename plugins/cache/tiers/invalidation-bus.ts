import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { subscribeToChannel } from '../../shared/redis/channel-subscription.js'
import { isRecord, isTexts } from '../store/entry.js'
import { tellInvalidated, type Events } from '../events.js'
import { parseJson } from '../store/json.js'
import type { L1 } from './l1.js'

/** Nothing is served out of L1 for longer than this after it was invalidated on another instance. */
export const MAX_STALENESS_MS = 100

/** Keeps the first tiers of all instances in step. */
export interface InvalidationBus {
  /** Whether all that was published up to `LEASE_MS` ago is known to have been heard. */
  readonly isCurrent: boolean
  close (): void
}

interface InvalidationBusOptions {
  client: RedisClient
  channel: string
  self: string
  l1: L1
  events: Events
  log: FastifyBaseLogger
  keepsAlone: boolean
  clock: Clock
}

/**
 * Instances tell each other by pub/sub what they invalidate, which takes about a millisecond. That nothing was missed is
 * not hoped: while L1 is in use, a PING on the subscriber's connection, whose reply comes after all messages before it,
 * is asked for every half a lease, and without a reply of the last lease L1 is not used.
 *
 * @param self - this instance's name in messages
 * @param keepsAlone - whether L1 is kept while nothing can be heard
 */
export function createInvalidationBus ({ client, channel, self, l1, events, log, keepsAlone, clock }: InvalidationBusOptions): InvalidationBus {
  let provenAt = -Infinity
  let proving = false
  const feed = subscribeToChannel({
    client,
    plugin: 'cache',
    channel,
    log,
    clock,
    without: 'cache: cannot hear of invalidations, so there is no first tier',
    onMessage (text) {
      const message = parseJson(text)
      apply(l1, message)
      if (isRecord(message) && message['from'] !== self) tell(events, message)
    },
    onGap () {
      provenAt = -Infinity
      if (feed.live || !keepsAlone) l1.clear()
    }
  })

  function prove (): void {
    if (proving) return
    proving = true
    const asked = clock.monotonic()
    feed.caughtUp().then(() => { if (feed.live) provenAt = asked }, () => {}).finally(() => { proving = false })
  }

  return {
    get isCurrent () {
      if (!feed.live) return false
      const age = clock.monotonic() - provenAt
      if (age > MAX_STALENESS_MS / 2) prove()
      return age <= MAX_STALENESS_MS
    },
    close: feed.close
  }
}

/** What cannot be read may have been anything. */
function apply (l1: L1, message: unknown): void {
  if (isRecord(message) && isTexts(message['tags'])) l1.invalidate(message['tags'])
  else if (isRecord(message) && isTexts(message['ids'])) l1.remove(message['ids'])
  else l1.clear()
}

function tell (events: Events, { tags, key }: Record<string, unknown>): void {
  if (isTexts(tags)) tellInvalidated(events, tags, 'remote')
  else if (typeof key === 'string') events.emit('invalidate', { key, origin: 'remote' })
}
