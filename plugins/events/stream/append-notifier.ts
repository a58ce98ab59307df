import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { subscribeToChannel, type ChannelSubscription } from '../../shared/redis/channel-subscription.js'
import { channelOf } from './redis-store.js'
import type { AppendNotifier } from './store.js'

type OnRing = (partition: number | undefined) => void

/** Hears of new events of all streams, over one connection, from the first listener on. */
export function createAppendNotifier (client: RedisClient, prefix: string, log: FastifyBaseLogger, clock: Clock): { bellOf: (name: string) => AppendNotifier, close: () => void } {
  const listeners = new Map<string, Set<OnRing>>()
  let feed: ChannelSubscription | undefined
  let isClosed = false

  const ring = (name: string, partition: number | undefined) => { for (const onRing of listeners.get(name) ?? []) onRing(partition) }

  const follow = () => subscribeToChannel({
    client,
    plugin: 'events',
    channel: channelOf(client, prefix),
    log,
    without: 'events: new events of streams cannot be heard of, they are looked for each second',
    onMessage: message => ring(message.slice(0, message.lastIndexOf('.')), Number(message.slice(message.lastIndexOf('.') + 1))),
    onGap: () => { for (const name of listeners.keys()) ring(name, undefined) },
    clock
  })

  return {
    bellOf: name => ({
      listen (onRing) {
        if (!isClosed) feed ??= follow()
        const all = listeners.get(name) ?? new Set()
        listeners.set(name, all.add(onRing))
        return () => { all.delete(onRing) }
      }
    }),
    close () {
      isClosed = true
      feed?.close()
    }
  }
}
