import type { FastifyBaseLogger } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import { isCluster, type RedisClient } from './client.js'
import { systemClock, type Clock } from '../plugin/clock.js'
import { isOutage, type PluginName } from '../plugin/errors.js'

/** Receives the messages that other instances publish. */
export interface ChannelSubscription {
  /** Whether every message is received now. */
  readonly live: boolean
  /** Resolves when all messages are received that were published before the call. */
  caughtUp (): Promise<void>
  close (): void
}

interface ChannelSubscriptionOptions {
  client: RedisClient
  /** For the log. */
  plugin: PluginName
  channel: string
  log: FastifyBaseLogger
  /** The log's message if the client may not subscribe. */
  without: string
  onMessage: (message: string) => void
  /** Called when messages may be lost from now on, and when they no longer are. */
  onGap: () => void
  clock?: Clock
}

const RETRY_MS = 100

/** Subscribes on its own connection, and again after each loss of it. */
export function subscribeToChannel (
  { client, plugin, channel, log, without, onMessage, onGap, clock = systemClock }: ChannelSubscriptionOptions
): ChannelSubscription {
  let subscriber: Redis | undefined
  let isLive = false
  let hasWarned = false
  let isClosed = false

  function connect (): void {
    if (isClosed) return
    // ioredis's own resubscription rejects where nothing can catch it. The listener below subscribes instead.
    const connection = isCluster(client) ? connectionToAnyNode(client) : client.duplicate({ autoResubscribe: false })
    subscriber = connection
    if (connection === undefined) return retry()
    // The original client logs the errors of connections.
    connection.on('error', () => {})
    connection.on('message', (_channel: string, message: string) => onMessage(message))
    connection.on('ready', () => {
      connection.subscribe(channel).then(() => {
        isLive = true
        onGap()
      }, (error: Error) => {
        if (isClosed) return
        if (!hasWarned) log.warn({ plugin, reason: error.message, channel }, without)
        hasWarned = true
      })
    })
    connection.on('close', () => {
      isLive = false
      onGap()
    })
    // Another node of a Cluster is tried. ioredis itself reconnects to a single server.
    if (isCluster(client)) connection.once('end', retry)
    if (connection.status === 'wait') connection.connect().catch(() => {})
  }

  function retry (): void {
    clock.setTimeout(connect, RETRY_MS).unref()
  }

  // Closing the client ends this connection as well, also without closing the app.
  const close = () => {
    isClosed = true
    client.off('end', close)
    subscriber?.disconnect()
  }
  client.once('end', close)
  connect()

  return {
    get live () { return isLive },
    // A connection delivers replies and messages in the server's order.
    async caughtUp () {
      if (subscriber === undefined) throw new Error('not connected')
      await subscriber.ping().catch((error: unknown) => { if (isOutage(error)) throw error })
    },
    close
  }
}

/**
 * Connects to any node: each one receives the messages that are published on any. The Cluster client's own subscriber
 * does not report interruptions, and its PING goes to another connection.
 */
function connectionToAnyNode (cluster: Cluster): Redis | undefined {
  const nodes = cluster.nodes('all')
  return nodes[Math.floor(Math.random() * nodes.length)]?.duplicate({ lazyConnect: true, retryStrategy: () => null })
}
