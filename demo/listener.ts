import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import pg from 'pg'

export interface ListenerOptions {
  connectionString: string
  channel: string
  onMessage: (payload: string) => void
  /** Called whenever listening starts: earlier messages have been missed. */
  onStart: () => void
  log: FastifyBaseLogger
  /** The interval of connection checks in milliseconds. */
  heartbeat?: number
  /** How long connecting, or one query, may take in milliseconds. */
  timeout?: number
}

const MIN_PAUSE_MS = 100
const MAX_PAUSE_MS = 10_000

/**
 * Listens for NOTIFY on its own connection, because a pool reuses its connections. A connection that is lost, or does
 * not respond, is replaced.
 *
 * @returns a function that stops it
 * @throws if the first connection fails
 */
export async function openListener (options: ListenerOptions): Promise<() => Promise<void>> {
  const { log, heartbeat = 10_000 } = options
  const closing = new AbortController()
  let client = await connect(options)

  async function keepListening (): Promise<void> {
    while (!closing.signal.aborted) {
      const reason = await untilLost(client, heartbeat)
      if (closing.signal.aborted) return
      log.warn({ reason }, 'database: not listening; changes are missed until it reconnects')
      const next = await reconnect(options, closing.signal)
      if (next === undefined) return
      client = next
      log.info('database: listening again; entries that may be outdated are invalidated')
    }
  }

  const listening = keepListening()
  return async () => {
    closing.abort()
    await client.end()
    await listening
  }
}

async function connect (
  { connectionString, channel, onMessage, onStart, timeout = 5000 }: ListenerOptions
): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString,
    application_name: `listens to ${channel}`,
    keepAlive: true,
    connectionTimeoutMillis: timeout,
    query_timeout: timeout
  })
  // The end event follows; without a listener, the error would end the process.
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

/** @returns undefined if the listener was closed meanwhile */
async function reconnect (options: ListenerOptions, closing: AbortSignal): Promise<pg.Client | undefined> {
  for (let pause = MIN_PAUSE_MS; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
    try {
      // With jitter: not all instances at once.
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

/**
 * Resolves with the reason when the connection is lost. It is checked regularly: a network failure may close neither
 * end.
 */
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
