import type { FastifyBaseLogger } from 'fastify'
import type { RedisPort } from '../../shared/redis/port.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { subscribeToChannel, type ChannelSubscription } from '../../shared/redis/channel-subscription.js'
import { channelOf } from './redis-store.js'
import type { AppendNotifier } from './store.js'

type OnAppend = (partition: number | undefined) => void

/** Subscribes to notifications of all streams over one connection, from the first listener on. */
export function createAppendNotifiers (
  client: RedisPort, prefix: string, log: FastifyBaseLogger, clock: Clock
): { of: (name: string) => AppendNotifier, close: () => void } {
  const listeners = new Map<string, Set<OnAppend>>()
  let subscription: ChannelSubscription | undefined
  let isClosed = false

  function notify (name: string, partition: number | undefined): void {
    for (const onAppend of listeners.get(name) ?? []) onAppend(partition)
  }

  const subscribe = () => subscribeToChannel({
    client,
    plugin: 'events',
    channel: channelOf(client, prefix),
    log,
    without: 'events: notifications of new events are unavailable; streams are polled each second',
    onMessage (message) {
      const end = message.lastIndexOf('.')
      notify(message.slice(0, end), Number(message.slice(end + 1)))
    },
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
