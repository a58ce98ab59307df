// A stream by raw commands: append, a group of consumers, acknowledgements, and messages of a consumer that died. Compare it with
// examples/streams.ts, which does the same by the plugin events. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/streams.ts`.
import { randomUUID } from 'node:crypto'
import { setTimeout as pauseFor } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

type Message = [id: string, fields: string[]]
const KEY = 'shop:orders'
const GROUP = 'mail'
/** Below the option `commandTimeout`, which would end a longer wait. */
const BLOCK_MS = 500
/** A message that is unacknowledged for longer belongs to a consumer that died. */
const IDLE_MS = 30_000

export interface Options {
  idle?: number
  /** Handles an order. It runs twice for an order whose consumer died before the acknowledgement. */
  handle?: (item: string) => void | Promise<void>
}

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }, { idle = IDLE_MS, handle = () => {} }: Options = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  const mailed: string[] = []
  const closing = new AbortController()

  app.post<{ Params: { item: string } }>('/orders/:item', async ({ params: { item } }, reply) => {
    // About the last 10,000 orders remain.
    const id = await app.redis.xadd(KEY, 'MAXLEN', '~', 10_000, '*', 'item', item)
    return await reply.code(202).send({ id })
  })
  app.get('/orders', async () => (await app.redis.xrevrange(KEY, '+', '-', 'COUNT', 10)).map(([id, fields]) => ({ id, item: fields[1] })))
  app.get('/mailed', async () => mailed)

  // #region consumer
  const consumer = randomUUID()
  // XREADGROUP BLOCK occupies its connection while it waits.
  const connectionOfGroup = app.redis.duplicate()
  connectionOfGroup.on('error', error => app.log.warn({ reason: error.message }, 'the consumer is disconnected'))

  async function consume () {
    await connectionOfGroup.xgroup('CREATE', KEY, GROUP, '0', 'MKSTREAM').catch(ignoreExisting)
    while (!closing.signal.aborted) {
      const [, abandoned] = await connectionOfGroup.xautoclaim(KEY, GROUP, consumer, idle, '0', 'COUNT', 10) as [string, Message[]]
      const replies = await connectionOfGroup.xreadgroup('GROUP', GROUP, consumer, 'COUNT', 10, 'BLOCK', BLOCK_MS, 'STREAMS', KEY, '>') as Array<[string, Message[]]> | null
      for (const message of [...abandoned, ...replies?.[0]?.[1] ?? []]) await handleOne(message)
    }
  }

  async function handleOne ([id, fields]: Message) {
    const item = String(fields[1])
    try {
      await handle(item)
    } catch (error) {
      // Without XACK the order stays pending, and is claimed again after IDLE_MS.
      return app.log.warn({ id, reason: String(error) }, 'an order was not handled')
    }
    mailed.push(item)
    await connectionOfGroup.xack(KEY, GROUP, id)
  }
  // #endregion

  async function consumeAlways () {
    while (!closing.signal.aborted) {
      await consume().catch(error => app.log.warn({ reason: error.message }, 'the consumer starts again'))
      await pauseFor(1000, undefined, { signal: closing.signal }).catch(() => {})
    }
  }

  const running = consumeAlways()
  app.addHook('onClose', async () => {
    closing.abort()
    await running
    connectionOfGroup.disconnect()
  })
  return app
}

function ignoreExisting (error: Error): void {
  if (!error.message.startsWith('BUSYGROUP')) throw error
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
