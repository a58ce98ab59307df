// A stream by raw commands: append, a group of consumers, acknowledgements, and messages of a consumer that died.
// Compare it with examples/streams.ts, which does the same by the plugin events. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/streams.ts`.
import { setTimeout as pauseFor } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
// #region consumer
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { IoredisClient } from '../../plugins/redis/index.js'

type Message = [id: string, fields: string[]]
const KEY = 'shop:orders'
const GROUP = 'mail'
const consumer = randomUUID()

interface Consumer {
  handle: (item: string) => unknown
  /** For how many milliseconds a message is unacknowledged if its consumer has died. */
  idle: number
  signal: AbortSignal
  log: FastifyBaseLogger
}

/** Handles orders until `signal` is aborted. XREADGROUP BLOCK occupies the connection while it waits. */
async function consume (connection: IoredisClient, { handle, idle, signal, log }: Consumer) {
  await connection.xgroup('CREATE', KEY, GROUP, '0', 'MKSTREAM').catch((error: Error) => {
    if (!error.message.startsWith('BUSYGROUP')) throw error   // The group exists already.
  })
  while (!signal.aborted) {
    const [, claimed] = await connection.xautoclaim(
      KEY, GROUP, consumer, idle, '0', 'COUNT', 10) as [string, Message[]]
    // 500 ms is below the option commandTimeout, which would end a longer wait.
    const read = await connection.xreadgroup(
      'GROUP', GROUP, consumer, 'COUNT', 10, 'BLOCK', 500, 'STREAMS', KEY, '>') as [[string, Message[]]] | null
    for (const [id, [, item = '']] of [...claimed, ...read?.[0][1] ?? []]) {
      try {
        await handle(item)
        await connection.xack(KEY, GROUP, id)
      } catch (error) {
        // Without XACK the order stays pending, and is claimed again after `idle`.
        log.warn({ id, reason: String(error) }, 'an order was not handled')
      }
    }
  }
}
// #endregion

export interface Options {
  idle?: number
  /** Handles an order. It runs twice for an order whose consumer died before the acknowledgement. */
  handle?: (item: string) => unknown
}

export async function build (
  connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }, { idle = 30_000, handle = () => {} }: Options = {}
) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  const mailed: string[] = []

  app.post<{ Params: { item: string } }>('/orders/:item', async ({ params: { item } }, reply) => {
    // About the last 10,000 orders remain.
    const id = await app.redis.xadd(KEY, 'MAXLEN', '~', 10_000, '*', 'item', item)
    return await reply.code(202).send({ id })
  })
  app.get('/orders', async () => {
    const newest = await app.redis.xrevrange(KEY, '+', '-', 'COUNT', 10)
    return newest.map(([id, fields]) => ({ id, item: fields[1] }))
  })
  app.get('/mailed', async () => mailed)

  const closing = new AbortController()
  const ownConnection = app.redis.duplicate()
  ownConnection.on('error', error => app.log.warn({ reason: error.message }, 'the consumer is disconnected'))
  const handleOne = async (item: string) => {
    await handle(item)
    mailed.push(item)
  }
  const running = (async () => {
    while (!closing.signal.aborted) {
      await consume(ownConnection, { handle: handleOne, idle, signal: closing.signal, log: app.log })
        .catch(error => app.log.warn({ reason: error.message }, 'the consumer starts again'))
      await pauseFor(1000, undefined, { signal: closing.signal }).catch(() => {})
    }
  })()
  app.addHook('onClose', async () => {
    closing.abort()
    await running
    ownConnection.disconnect()
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
