import type { FastifyBaseLogger } from 'fastify'
import { isCluster, type RedisClient } from './client.js'

/** Listens to what other instances publish. */
export interface Feed {
  /** Whether every message is heard now. */
  readonly live: boolean
  /** Resolves when all is heard that had been published before the call. */
  caughtUp (): Promise<void>
  close (): void
}

export interface FeedOptions {
  client: RedisClient
  channel: string
  log: FastifyBaseLogger
  /** What it means that nothing can be heard, for the log. */
  without: string
  onMessage: (message: string) => void
  /** Called when messages may be missed from now on, and when they no longer are. */
  onGap: () => void
}

/** Subscribes on a connection of its own, and again whenever that was lost. */
export function followChannel ({ client, channel, log, without, onMessage, onGap }: FeedOptions): Feed {
  const subscriber: RedisClient = isCluster(client) ? client.duplicate() : client.duplicate()
  let live = false
  let warned = false

  // The client it was made from logs the connection's troubles.
  subscriber.on('error', () => {})
  subscriber.on('message', (_channel: string, message: string) => onMessage(message))
  subscriber.on('ready', () => {
    subscriber.subscribe(channel).then(() => {
      live = true
      onGap()
    }, (error: Error) => {
      if (!warned) log.warn({ reason: error.message, channel }, without)
      warned = true
    })
  })
  subscriber.on('close', () => {
    live = false
    onGap()
  })
  // Whoever closes the client is done with this connection as well, also without closing the app.
  const close = () => {
    client.off('end', close)
    subscriber.disconnect()
  }
  client.once('end', close)
  if (subscriber.status === 'wait') subscriber.connect().catch(() => {})

  return {
    get live () { return live },
    // Replies and messages of one connection come in the order in which the server made them.
    async caughtUp () { await subscriber.ping() },
    close
  }
}
