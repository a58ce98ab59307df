// Lua: take pieces of a stock only if there are enough, in one atomic step. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/stock.ts`, then
// `curl -X PUT localhost:3000/stock/7/10` and `curl -X POST localhost:3000/stock/7/take/3`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import { callRedis, runScript, type RedisPluginOptions } from '../../plugins/redis/index.js'
// #region script
import { defineScript } from '../../plugins/redis/index.js'

const takeStock = defineScript({
  keys: ['stock'],
  args: { amount: 'number' },
  lua: `
    local left = tonumber(redis.call('GET', stock)) or 0
    if left < amount then return nil end
    return redis.call('DECRBY', stock, amount)`,
  reply: left => left === null ? undefined : Number(left)
})
// #endregion

interface Take { id: string, amount: number }
const params = {
  type: 'object',
  properties: {
    id: { type: 'string', pattern: '^\\w{1,32}$' },
    amount: { type: 'integer', minimum: 1, maximum: 1000 }
  }
}

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  app.put<{ Params: Take }>('/stock/:id/:amount', { schema: { params } }, async request => {
    const { id, amount } = request.params
    await callRedis(app, redis => redis.set(`shop:stock:${id}`, amount, 'EX', 86_400))
    return { left: amount }
  })

  app.post<{ Params: Take }>('/stock/:id/take/:amount', { schema: { params } }, async (request, reply) => {
    const { id, amount } = request.params
    const left = await runScript(app, takeStock, { stock: `shop:stock:${id}` }, { amount })
    if (left === undefined) return await reply.code(409).send({ error: 'not enough in stock' })
    return { left }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
