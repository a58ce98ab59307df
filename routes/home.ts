import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { prefersHtml } from '../demo/html.js'
import { negotiated } from './schemas.js'

const LINKS = {
  products: '/products',
  product: '/products/1',
  search: '/products/search?q=teapot',
  leaderboard: '/leaderboard',
  report: '/reports/sales',
  limited: '/limited',
  health: '/health',
  docs: '/docs'
}

export const home: FastifyPluginAsyncTypebox = async function home (fastify) {
  fastify.get('/', {
    schema: {
      tags: ['home'],
      summary: 'The live page for browsers, and links for other clients',
      response: negotiated(Type.Record(Type.String(), Type.String()), 'Paths of the demo.')
    },
    config: { pressureHandler: () => {} }
  }, async (request, reply) => {
    reply.header('vary', 'accept')
    return fastify.hasPage && prefersHtml(request.headers.accept)
      ? reply.sendFile('index.html', { cacheControl: false })
      : LINKS
  })
}
