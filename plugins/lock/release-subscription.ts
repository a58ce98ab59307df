import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { keySpace } from '../shared/plugin/keys.js'
import { subscribeToChannel, type ChannelSubscription } from '../shared/redis/channel-subscription.js'
import { databaseChannel } from '../shared/redis/client.js'
import type { RedisPort } from '../shared/redis/port.js'
import type { ReleaseListener } from './store.js'

interface ReleaseSubscriptionOptions {
  nodes: readonly RedisPort[]
  prefix: string
  log: FastifyBaseLogger
  listener: ReleaseListener
  clock: Clock
}

/** The channel of releases, which locks and semaphores share: it is subscribed to when the first caller has to wait. */
export class ReleaseSubscription {
  readonly channel: string
  readonly #options: ReleaseSubscriptionOptions
  #subscriptions: readonly ChannelSubscription[] | undefined
  #isClosed = false

  constructor (options: ReleaseSubscriptionOptions) {
    const { nodes: [first], prefix } = options
    const name = keySpace(prefix, 'lock', 'calls')
    this.channel = first === undefined ? name : databaseChannel(first, name)
    this.#options = options
  }

  start (): void {
    // A reply may arrive after the app has closed.
    if (this.#isClosed) return
    const { nodes, log, listener, clock } = this.#options
    this.#subscriptions ??= nodes.map(client => subscribeToChannel({
      client,
      plugin: 'lock',
      channel: this.channel,
      log,
      without: 'lock: releases cannot be subscribed to, so waiters poll',
      onMessage: listener.notify,
      onGap: listener.notifyAll,
      clock
    }))
  }

  close (): void {
    this.#isClosed = true
    this.#subscriptions?.forEach(subscription => subscription.close())
  }
}
