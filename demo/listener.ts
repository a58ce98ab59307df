import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import pg from 'pg'

export interface ListenerOptions {
  connectionString: string
  channel: string
  onMessage: (payload: string) => void
  /** Each time it begins to listen: what was said before has been missed. */
  onStart: () => void
  log: FastifyBaseLogger
  /** How often the connection is asked whether it still is one, in ms. */
  heartbeat?: number
  /** How long it may take to connect, and to answer, in ms. */
  timeout?: number
}

const MIN_PAUSE_MS = 100
const MAX_PAUSE_MS = 10_000

/**
 * LISTEN on a connection of its own: what listens cannot be lent by a pool. A connection that is lost, or does not answer,
 * is replaced.
 *
 * @returns what ends it
 * @throws where the first connection cannot be made
 */
export async function openListener (options: ListenerOptions): Promise<() => Promise<void>> {
  const { log, heartbeat = 10_000 } = options
  const closing = new AbortController()
  let client = await connect(options)

  async function keepListening (): Promise<void> {
    while (!closing.signal.aborted) {
      const reason = await untilLost(client, heartbeat)
      if (closing.signal.aborted) return
      log.warn({ reason }, 'database: does not listen; changes are missed until it does again')
      const next = await reconnect(options, closing.signal)
      if (next === undefined) return
      client = next
      log.info('database: listens again; what may have been missed is cleared')
    }
  }

  const listening = keepListening()
  return async () => {
    closing.abort()
    await client.end()
    await listening
  }
}

async function connect ({ connectionString, channel, onMessage, onStart, timeout = 5000 }: ListenerOptions): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString,
    application_name: `listens to ${channel}`,
    keepAlive: true,
    connectionTimeoutMillis: timeout,
    query_timeout: timeout
  })
  // Its end tells the same; without a listener it would end the process.
  client.on('error', () => {})
  client.on('notification', ({ payload = '' }) => onMessage(payload))
  try {
    await client.connect()
    await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`)
  } catch (error) {
    client.end().catch(() => {})
    throw error
  }
  onStart()
  return client
}

/** @returns undefined where it is closed meanwhile */
async function reconnect (options: ListenerOptions, closing: AbortSignal): Promise<pg.Client | undefined> {
  for (let pause = MIN_PAUSE_MS; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
    try {
      // Not all instances at the same moment.
      await sleep(pause * (0.5 + Math.random()), undefined, { signal: closing, ref: false })
      const client = await connect(options)
      if (!closing.aborted) return client
      await client.end()
      return undefined
    } catch {
      if (closing.aborted) return undefined
    }
  }
}

/** A connection that a network forgot ends for neither side, so it is asked from time to time. */
async function untilLost (client: pg.Client, heartbeat: number): Promise<string> {
  const ended = new AbortController()
  once(client, 'end').then(() => ended.abort(), () => ended.abort())
  try {
    for (;;) {
      await sleep(heartbeat, undefined, { signal: ended.signal, ref: false })
      await client.query('SELECT 1')
    }
  } catch (error) {
    client.end().catch(() => {})
    if (ended.signal.aborted) return 'the connection ended'
    return error instanceof Error ? error.message : String(error)
  }
}
