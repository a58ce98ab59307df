import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'

const START = {
  products: '/products',
  product: '/products/1',
  search: '/products/search?q=teapot',
  leaderboard: '/leaderboard',
  report: '/reports/sales',
  health: '/health',
  docs: '/docs'
}

export const home: FastifyPluginAsyncTypebox = async function home (fastify) {
  fastify.get('/', { schema: { tags: ['home'], summary: 'Where to start' } }, async () => START)
}
