import type { FastifyBaseLogger } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import { isCluster, type RedisClient } from './client.js'
import { systemClock, type Clock } from '../plugin/clock.js'
import { isOutage, type PluginName } from '../plugin/errors.js'

/** Listens to what other instances publish. */
export interface ChannelSubscription {
  /** Whether every message is heard now. */
  readonly live: boolean
  /** Resolves when all is heard that had been published before the call. */
  caughtUp (): Promise<void>
  close (): void
}

export interface ChannelSubscriptionOptions {
  client: RedisClient
  /** Whose it is, for the log. */
  plugin: PluginName
  channel: string
  log: FastifyBaseLogger
  /** What it means that nothing can be heard, for the log. */
  without: string
  onMessage: (message: string) => void
  /** Called when messages may be missed from now on, and when they no longer are. */
  onGap: () => void
  clock?: Clock
}

const RETRY_MS = 100

/** Subscribes on a connection of its own, and again whenever that was lost. */
export function subscribeToChannel ({ client, plugin, channel, log, without, onMessage, onGap, clock = systemClock }: ChannelSubscriptionOptions): ChannelSubscription {
  let subscriber: Redis | undefined
  let live = false
  let warned = false
  let closed = false

  function connect (): void {
    if (closed) return
    // It subscribes by itself below; what ioredis does instead rejects where nobody can catch it.
    const own = isCluster(client) ? connectionToAnyNode(client) : client.duplicate({ autoResubscribe: false })
    subscriber = own
    if (own === undefined) return retry()
    // The client it was made from logs the connection's troubles.
    own.on('error', () => {})
    own.on('message', (_channel: string, message: string) => onMessage(message))
    own.on('ready', () => {
      own.subscribe(channel).then(() => {
        live = true
        onGap()
      }, (error: Error) => {
        if (closed) return
        if (!warned) log.warn({ plugin, reason: error.message, channel }, without)
        warned = true
      })
    })
    own.on('close', () => {
      live = false
      onGap()
    })
    // The next node of a Cluster; to a single server the connection is made again by itself.
    if (isCluster(client)) own.once('end', retry)
    if (own.status === 'wait') own.connect().catch(() => {})
  }

  function retry (): void {
    clock.setTimeout(connect, RETRY_MS).unref()
  }

  // Whoever closes the client is done with this connection as well, also without closing the app.
  const close = () => {
    closed = true
    client.off('end', close)
    subscriber?.disconnect()
  }
  client.once('end', close)
  connect()

  return {
    get live () { return live },
    // Replies and messages of one connection come in the order in which the server made them.
    async caughtUp () {
      if (subscriber === undefined) throw new Error('not connected')
      await subscriber.ping().catch((error: unknown) => { if (isOutage(error)) throw error })
    },
    close
  }
}

/**
 * In a Cluster each node hears what is published on any. The client's own way to subscribe does not tell when that was
 * interrupted, and its PING goes to another connection.
 */
function connectionToAnyNode (cluster: Cluster): Redis | undefined {
  const nodes = cluster.nodes('all')
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate({ lazyConnect: true, retryStrategy: () => null })
}
