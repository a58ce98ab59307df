import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { ALWAYS, COSTLY } from './live-config.js'
import { responses, Whole } from './schemas.js'

/** The products whose views are counted. */
const PRODUCTS = 12
const PAUSE_MS = 8000

/** The write-behind of the live page. */
export const views: FastifyPluginAsyncTypebox = async function views (fastify) {
  fastify.post('/live/views', {
    schema: {
      tags: ['live'],
      summary: 'Count views of products with write-behind; the response does not wait for the database',
      body: Type.Object(
        { count: Whole({ minimum: 1, maximum: 500 }) }, { additionalProperties: false, examples: [{ count: 200 }] }
      ),
      response: responses(Type.Object({ accepted: Type.Integer() }), 'The number of views that will be written.')
    },
    config: { rateLimit: COSTLY, session: false, ...ALWAYS }
  }, async ({ body: { count } }) => {
    await fastify.views.accept(Array.from({ length: count }, (_, i) => 1 + i % PRODUCTS))
    return { accepted: count }
  })

  fastify.post('/live/views/pause', {
    schema: {
      tags: ['live'],
      summary: 'Make the database refuse views for 8 s: they wait',
      response: responses(Type.Object({ pausedMs: Type.Integer() }), 'The duration of the pause.')
    },
    config: { rateLimit: COSTLY, session: false, ...ALWAYS }
  }, async () => {
    await fastify.views.pause(PAUSE_MS)
    return { pausedMs: PAUSE_MS }
  })
}
