import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { subscribeToChannel, type ChannelSubscription } from '../../shared/redis/channel-subscription.js'
import { channelOf } from './redis-store.js'
import type { AppendNotifier } from './store.js'

type OnAppend = (partition: number | undefined) => void

/** Subscribes to notifications of all streams over one connection, from the first listener on. */
export function createAppendNotifiers (
  client: RedisClient, prefix: string, log: FastifyBaseLogger, clock: Clock
): { of: (name: string) => AppendNotifier, close: () => void } {
  const listeners = new Map<string, Set<OnAppend>>()
  let subscription: ChannelSubscription | undefined
  let isClosed = false

  const notify = (name: string, partition: number | undefined) => { for (const onAppend of listeners.get(name) ?? []) onAppend(partition) }

  const subscribe = () => subscribeToChannel({
    client,
    plugin: 'events',
    channel: channelOf(client, prefix),
    log,
    without: 'events: new events of streams cannot be heard of, they are looked for each second',
    onMessage: message => notify(message.slice(0, message.lastIndexOf('.')), Number(message.slice(message.lastIndexOf('.') + 1))),
    onGap: () => { for (const name of listeners.keys()) notify(name, undefined) },
    clock
  })

  return {
    of: name => ({
      listen (onAppend) {
        if (!isClosed) subscription ??= subscribe()
        const all = listeners.get(name) ?? new Set()
        listeners.set(name, all.add(onAppend))
        return () => { all.delete(onAppend) }
      }
    }),
    close () {
      isClosed = true
      subscription?.close()
    }
  }
}
