// Pages that a CDN stores, and that a change purges there. Run it with `npx tsx examples/guides/behind-a-cdn.ts`.
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyReply } from 'fastify'
import { cache, redis } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

export const products = new Map(
  [['1', { id: '1', name: 'Teapot', cents: 3000 }], ['2', { id: '2', name: 'Kettle', cents: 4500 }]]
)
export const database = { reads: 0 }

/** Purges tags at Cloudflare. Other CDNs have another address, and another name for the tags. */
async function purgeAtCdn (tags: string[], signal: AbortSignal): Promise<void> {
  const url = process.env['CDN_PURGE_URL'] // https://api.cloudflare.com/client/v4/zones/<zone>/purge_cache
  if (url === undefined) return
  const response = await fetch(url, {
    method: 'POST',
    headers: { authorization: `Bearer ${process.env['CDN_TOKEN']}`, 'content-type': 'application/json' },
    body: JSON.stringify({ tags }),
    signal
  })
  if (!response.ok) {
    throw Object.assign(new Error(`the purge was answered with ${response.status}`), { status: response.status })
  }
}

// One time for both caches: the response has an `Age`, by which the CDN reduces its own time.
const TTL = { ttl: '1h', maxAge: 3600 }

/** Headers of a page that browsers validate, and that the CDN stores until it is purged. */
function forCdn (reply: FastifyReply, tags: string[]): void {
  reply.headers({
    'cache-control': 'public, max-age=0, must-revalidate',
    'cdn-cache-control': `max-age=${TTL.maxAge}, stale-if-error=86400`,
    'cache-tag': ['all', ...tags].join(',')
  })
  reply.cacheTags(...tags)
}

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'cdn' })
  await app.register(cache, { ttl: TTL.ttl, clock })

  // One instance purges for all: in batches, each tag once, and again after a failure.
  const purges = app.cache.writeBehind<string>('cdn-purges', {
    async write (batch, { signal }) {
      // Other instances serve a response from L1 for up to 100 ms after its invalidation. The CDN must not fetch that
      // one.
      await sleep(150, undefined, { signal })
      await purgeAtCdn(batch.map(({ value }) => value), signal)
    },
    latest: true,
    partitions: 1,
    flushEvery: '250ms',
    isOutage: error => {
      const { status } = error as { status?: number }
      return status === undefined || status === 429 || status >= 500
    }
  })
  app.cache.on('invalidate', ({ tags = [], origin }) => {
    if (origin !== 'local') return
    for (const tag of tags) {
      const name = tag === '*' ? 'all' : tag
      purges.add(name, name).catch(
        (error: Error) => { app.log.error({ tag, reason: error.message }, 'not purged at the CDN') }
      )
    }
  })

  app.get('/products', { config: { cache: true } }, async (_request, reply) => {
    database.reads++
    forCdn(reply, ['products'])
    return [...products.values()]
  })
  app.get<{ Params: { id: string } }>('/products/:id', { config: { cache: true } }, async (request, reply) => {
    const { id } = request.params
    database.reads++
    const product = products.get(id)
    if (product === undefined) return await reply.code(404).send({ error: 'no such product' })
    forCdn(reply, [`product:${id}`])
    return product
  })
  app.put<{ Params: { id: string }, Body: { cents: number } }>('/products/:id', {
    config: { cache: { invalidates: ({ params: { id } }) => [`product:${id}`, 'products'] } }
  }, async ({ params: { id }, body: { cents } }, reply) => {
    const product = products.get(id)
    if (product === undefined) return await reply.code(404).send({ error: 'no such product' })
    product.cents = cents
    return product
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
