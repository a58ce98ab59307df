import type { FastifyBaseLogger } from 'fastify'
import { isCluster, type RedisClient } from '../shared/client.js'

/** Listens to what other instances reset. */
export interface ResetFeed {
  /** Whether every reset is heard now. */
  readonly live: boolean
  close (): void
}

/**
 * @param onReset - called with the key that was reset, on any instance
 * @param onGap - called when resets may be missed from now on, and when they no longer are
 */
export function followResets (
  client: RedisClient, channel: string, log: FastifyBaseLogger, onReset: (key: string) => void, onGap: () => void
): ResetFeed {
  const subscriber: RedisClient = isCluster(client) ? client.duplicate() : client.duplicate()
  let live = false
  let warned = false

  // The client it was made from logs the connection's troubles.
  subscriber.on('error', () => {})
  subscriber.on('message', (_channel: string, key: string) => onReset(key))
  subscriber.on('ready', () => {
    subscriber.subscribe(channel).then(() => {
      live = true
      onGap()
    }, (error: Error) => {
      if (!warned) log.warn({ reason: error.message, channel }, 'rate-limit: cannot hear of resets, so every refusal asks Redis')
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
    close
  }
}
